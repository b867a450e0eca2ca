# Bookinfo as a job: every instance with a sidecar, on random ports, registered by Nomad itself.
#
#   nomad job run nomad/bookinfo.nomad.hcl
#   nomad job run -var provider=consul nomad/bookinfo.nomad.hcl          # services in Consul instead of Nomad
#   nomad job run -var driver=raw_exec nomad/bookinfo.nomad.hcl          # with the isthmus and envoy commands on the clients
#
# The pattern, for jobs of your own: the app listens on a port of its own (`app`), the sidecar on the port that is registered (`http`).
# Calls to other services go through the sidecar at NOMAD_ADDR_outbound, by the Host header; HTTP_PROXY does for most programs.

variable "datacenters" {
  description = "Where it may run."
  type        = list(string)
  default     = ["*"]
}

variable "driver" {
  description = "What runs the tasks: docker, or raw_exec and exec, which need the commands on the clients."
  type        = string
  default     = "docker"
}

variable "image" {
  description = "The image of app and sidecar, with the driver docker."
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
  description = "Where services are registered: nomad or consul."
  type        = string
  default     = "nomad"
}

variable "bridges" {
  description = "Addresses of the bridges' xDS, if they are not the service isthmus-xds of this Nomad."
  type        = list(string)
  default     = []
}

variable "count" {
  description = "Instances of each service."
  type        = number
  default     = 1
}

variable "release" {
  description = "Another word here replaces every instance, one after the other."
  type        = string
  default     = "1"
}

locals {
  services = {
    productpage-v1 = { name = "productpage", version = "v1" }
    details-v1     = { name = "details", version = "v1" }
    reviews-v1     = { name = "reviews", version = "v1" }
    reviews-v2     = { name = "reviews", version = "v2" }
    reviews-v3     = { name = "reviews", version = "v3" }
    ratings-v1     = { name = "ratings", version = "v1" }
  }

  # The bridges, looked up each time that one comes or goes.
  discovery = length(var.bridges) > 0 ? jsonencode(var.bridges) : "[{{ range nomadService \"isthmus-xds\" }}\"{{ .Address }}:{{ .Port }}\", {{ end }}]"
}

job "bookinfo" {
  type        = "service"
  datacenters = var.datacenters

  meta {
    release = var.release
  }

  # One instance after the other, the next one when the last takes calls: with two or more of each, no request fails meanwhile.
  update {
    max_parallel     = 1
    health_check     = "checks"
    min_healthy_time = "2s"
    healthy_deadline = "2m"
  }

  dynamic "group" {
    for_each = local.services
    labels   = [group.key]

    content {
      count = var.count

      # Off the list first. Callers have noticed long before these seconds are over, and the task serves until then.
      shutdown_delay = "3s"

      network {
        port "http" {}
        port "app" {}
        port "outbound" {}
        port "admin" {}
        port "status" {}
        port "ready" {}
        port "stats" {}
      }

      service {
        name     = group.value.name
        port     = "http"
        provider = var.provider
        tags     = ["protocol=http", "port=9080", "version=${group.value.version}"]

        # Consul has a place for it that is not tags.
        dynamic "meta" {
          for_each = var.provider == "consul" ? [1] : []
          content {
            protocol = "http"
            port     = "9080"
            version  = group.value.version
          }
        }

        # Through the proxy to the app: whoever passes can be called.
        check {
          type     = "http"
          path     = "/health"
          interval = "1s"
          timeout  = "3s"
        }
      }

      # Starts first, stops last.
      task "sidecar" {
        driver       = var.driver
        kill_timeout = "15s"

        lifecycle {
          hook    = "prestart"
          sidecar = true
        }

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
            node: ${group.value.name}-{{ env "NOMAD_ALLOC_ID" }}
            serviceCluster: ${group.value.name}
            address: {{ env "NOMAD_IP_http" }}
            binaryPath: ${var.envoy}
            configPath: {{ env "NOMAD_TASK_DIR" }}/agent
            proxyAdminPort: {{ env "NOMAD_PORT_admin" }}
            statusPort: {{ env "NOMAD_PORT_status" }}
            readinessPort: {{ env "NOMAD_PORT_ready" }}
            envoyPrometheusPort: {{ env "NOMAD_PORT_stats" }}
            outbound: {mode: EXPLICIT, listen: "127.0.0.1:{{ env "NOMAD_PORT_outbound" }}"}
            registration: {type: none}      # the service block above does it
            services:
            - name: ${group.value.name}
              labels: {version: ${group.value.version}}
              ports: [{name: http, protocol: http, port: 9080, target: "127.0.0.1:{{ env "NOMAD_PORT_app" }}", inbound: {{ env "NOMAD_PORT_http" }}}]
          EOT
        }

        resources {
          cpu    = 100
          memory = 192
        }
      }

      # The app starts when its calls can be routed.
      task "wait" {
        driver = var.driver

        lifecycle {
          hook    = "prestart"
          sidecar = false
        }

        dynamic "config" {
          for_each = [var.driver]
          content {
            image        = config.value == "docker" ? var.image : null
            network_mode = config.value == "docker" ? "host" : null
            command      = config.value == "docker" ? null : var.command
            args         = ["agent", "wait", "--for", "ready", "--timeout", "60s", "--agent", "127.0.0.1:${NOMAD_PORT_status}"]
          }
        }

        resources {
          cpu    = 50
          memory = 64
        }
      }

      task "app" {
        driver       = var.driver
        kill_timeout = "5s"

        dynamic "config" {
          for_each = [var.driver]
          content {
            image        = config.value == "docker" ? var.image : null
            network_mode = config.value == "docker" ? "host" : null
            command      = config.value == "docker" ? null : var.command
            args = ["demo", "service", group.value.name, "--service-version", group.value.version,
              "--listen", "127.0.0.1:${NOMAD_PORT_app}", "--via", "127.0.0.1:${NOMAD_PORT_outbound}",
            "--id", "${group.key}-${NOMAD_SHORT_ALLOC_ID}"]
          }
        }

        resources {
          cpu    = 50
          memory = 64
        }
      }
    }
  }
}
