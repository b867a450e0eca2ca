# One agent for every client, for programs that are no part of the mesh's jobs: they call services by name.
#
#   nomad job run nomad/agent.nomad.hcl
#
# What runs on the client's own network resolves names through 127.0.0.1:15053 (docs/dns.md says how a machine is told) and reaches each
# service at its address in 127.64.0.0/10. Ports below 1024 need the driver docker or raw_exec as root.

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

variable "bridges" {
  description = "Addresses of the bridges' xDS, if they are not the service isthmus-xds of this Nomad."
  type        = list(string)
  default     = []
}

locals {
  discovery = length(var.bridges) > 0 ? jsonencode(var.bridges) : "[{{ range nomadService \"isthmus-xds\" }}\"{{ .Address }}:{{ .Port }}\", {{ end }}]"
}

job "isthmus-agent" {
  type        = "system"
  datacenters = var.datacenters

  update {
    max_parallel = 1
  }

  group "agent" {
    network {
      port "status" {
        static = 15020
      }
      port "ready" {
        static = 15021
      }
    }

    task "agent" {
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
          node: {{ env "node.unique.name" }}
          serviceCluster: client
          locality: {{ env "node.region" }}/{{ env "node.datacenter" }}
          binaryPath: ${var.envoy}
          configPath: {{ env "NOMAD_TASK_DIR" }}/agent
          outbound: {mode: ADDRESSES}
          dns: {}
        EOT
      }

      resources {
        cpu    = 100
        memory = 192
      }
    }
  }
}
