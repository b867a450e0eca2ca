# The gateway: every HTTP service of the mesh by its host name, on one port of a client.
#
#   nomad job run nomad/gateway.nomad.hcl
#   curl -H 'Host: productpage' http://CLIENT:8080/

variable "datacenters" {
  description = "Where it may run."
  type        = list(string)
  default     = ["*"]
}

variable "driver" {
  description = "What runs it: docker, or raw_exec and exec, which need the commands on the clients."
  type        = string
  default     = "docker"
}

variable "image" {
  description = "The image of the agent, with the driver docker."
  type        = string
  default     = "isthmus-agent:dev"
}

variable "command" {
  description = "The isthmus command, with the drivers raw_exec and exec."
  type        = string
  default     = "/opt/isthmus/bin/isthmus"
}

variable "envoy" {
  description = "The envoy command, with the drivers raw_exec and exec."
  type        = string
  default     = "/usr/local/bin/envoy"
}

variable "provider" {
  description = "Where the gateway is registered: nomad or consul."
  type        = string
  default     = "nomad"
}

variable "bridges" {
  description = "Addresses of the bridges' xDS, if they are not the service isthmus-xds of this Nomad."
  type        = list(string)
  default     = []
}

variable "gateway_port" {
  description = "The port of every client that runs the gateway, at which HTTP services answer by host name; 0 takes any."
  type        = number
  default     = 8080
}

locals {
  discovery = length(var.bridges) > 0 ? jsonencode(var.bridges) : "[{{ range nomadService \"isthmus-xds\" }}\"{{ .Address }}:{{ .Port }}\", {{ end }}]"
}

job "gateway" {
  type        = "service"
  datacenters = var.datacenters

  group "gateway" {
    shutdown_delay = "3s"

    network {
      port "http" {
        static = var.gateway_port
      }
      port "admin" {}
      port "status" {}
      port "ready" {}
      port "stats" {}
    }

    service {
      name     = "gateway"
      port     = "http"
      provider = var.provider
      tags     = ["protocol=http", "port=8080"]

      # Consul has a place for it that is not tags.
      dynamic "meta" {
        for_each = var.provider == "consul" ? [1] : []
        content {
          protocol = "http"
          port     = "8080"
        }
      }

      check {
        type     = "http"
        port     = "ready"
        path     = "/healthz/ready"
        interval = "1s"
        timeout  = "3s"
      }
    }

    task "gateway" {
      driver       = var.driver
      kill_timeout = "15s"

      dynamic "config" {
        for_each = [var.driver]
        content {
          image        = config.value == "docker" ? var.image : null
          network_mode = config.value == "docker" ? "host" : null
          command      = config.value == "docker" ? null : var.command
          args         = ["agent", "--config", "${NOMAD_TASK_DIR}/agent.yaml"]
        }
      }

      template {
        destination   = "local/agent.yaml"
        change_mode   = "signal"
        change_signal = "SIGHUP"
        data          = <<-EOT
          discoveryAddress: ${local.discovery}
          node: gateway-{{ env "NOMAD_ALLOC_ID" }}
          serviceCluster: gateway
          binaryPath: ${var.envoy}
          configPath: {{ env "NOMAD_TASK_DIR" }}/agent
          proxyAdminPort: {{ env "NOMAD_PORT_admin" }}
          statusPort: {{ env "NOMAD_PORT_status" }}
          readinessPort: {{ env "NOMAD_PORT_ready" }}
          envoyPrometheusPort: {{ env "NOMAD_PORT_stats" }}
          outbound: {mode: EXPLICIT, listen: "{{ env "NOMAD_IP_http" }}:{{ env "NOMAD_PORT_http" }}"}
          registration: {type: none}
        EOT
      }

      resources {
        cpu    = 100
        memory = 192
      }
    }
  }
}
