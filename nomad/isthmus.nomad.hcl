# The bridge as a service job: two replicas that read this Nomad, one updated after the other.
#
#   nomad job run nomad/isthmus.nomad.hcl
#   nomad job run -var driver=docker -var image=isthmus:dev nomad/isthmus.nomad.hcl
#
# Proxies find a replica by its service, `isthmus-xds`: see bookinfo.nomad.hcl.

variable "datacenters" {
  description = "Where it may run."
  type        = list(string)
  default     = ["*"]
}

variable "replicas" {
  description = "How many bridges run. Any of them serves every proxy; with two, one may go."
  type        = number
  default     = 2
}

variable "driver" {
  description = "What runs it: docker, or raw_exec and exec, which need the isthmus command on the client."
  type        = string
  default     = "docker"
}

variable "image" {
  description = "The image, with the driver docker."
  type        = string
  default     = "isthmus:dev"
}

variable "command" {
  description = "The isthmus command, with the drivers raw_exec and exec."
  type        = string
  default     = "/opt/isthmus/bin/isthmus"
}

variable "nomad_address" {
  description = "Nomad's API as the bridge reaches it. Allocations have the agent of their own client at its unix socket as well; the bridge reads over HTTP."
  type        = string
  default     = "http://127.0.0.1:4646"
}

variable "consul_address" {
  description = "A Consul to read besides Nomad, such as http://127.0.0.1:8500; empty for none."
  type        = string
  default     = ""
}

variable "provider" {
  description = "Where the job's own services are registered: nomad or consul."
  type        = string
  default     = "nomad"
}

job "isthmus" {
  type        = "service"
  datacenters = var.datacenters

  # The next one is replaced when the last has read everything; proxies change over without noticing.
  update {
    max_parallel      = 1
    health_check      = "checks"
    min_healthy_time  = "5s"
    healthy_deadline  = "2m"
    progress_deadline = "5m"
    auto_revert       = true
  }

  group "bridge" {
    count = var.replicas

    # Off the list first; streams end once proxies had the time to see it.
    shutdown_delay = "3s"

    network {
      port "xds" {}
      port "http" {}
    }

    # What the bridge remembers (addresses of TCP services, last known states) survives an update on the same client.
    ephemeral_disk {
      sticky  = true
      migrate = true
      size    = 300
    }

    service {
      name     = "isthmus-xds"
      port     = "xds"
      provider = var.provider
      tags     = ["protocol=grpc", "port=15010"]

      check {
        type     = "http"
        port     = "http"
        path     = "/readyz"
        interval = "2s"
        timeout  = "3s"
      }
    }

    service {
      name     = "isthmus"
      port     = "http"
      provider = var.provider
      tags     = ["protocol=http", "port=15014"]

      check {
        type     = "http"
        path     = "/readyz"
        interval = "2s"
        timeout  = "3s"
      }
    }

    task "isthmus" {
      driver       = var.driver
      kill_timeout = "10s"

      dynamic "config" {
        for_each = [var.driver]
        content {
          image        = config.value == "docker" ? var.image : null
          network_mode = config.value == "docker" ? "host" : null
          command      = config.value == "docker" ? null : var.command
          args         = ["serve", "--config", "${NOMAD_TASK_DIR}/isthmus.yaml"]
        }
      }

      # Gives the task NOMAD_TOKEN: with ACLs, write a policy for this job that may read (docs/nomad.md).
      identity {
        env = true
      }

      template {
        destination   = "local/isthmus.yaml"
        change_mode   = "signal"
        change_signal = "SIGHUP"
        data          = <<-EOT
          registries:
          - name: nomad
            type: nomad
            address: ${var.nomad_address}
            token: {{ env "NOMAD_TOKEN" }}
            check_interval: 1
          {{ if "${var.consul_address}" }}- {name: consul, type: consul, address: "${var.consul_address}"}{{ end }}
          xds: {address: "{{ env "NOMAD_IP_xds" }}:{{ env "NOMAD_PORT_xds" }}"}
          http: {address: "{{ env "NOMAD_IP_http" }}:{{ env "NOMAD_PORT_http" }}"}
          state_dir: {{ env "NOMAD_ALLOC_DIR" }}/data
        EOT
      }

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }
}
