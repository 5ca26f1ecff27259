# Callboard as a job of Nomad, one on each client of the pool, before services that the client's Consul knows:
#
#   nomad job run -var image=registry.example.com/callboard:0.1.0 callboard.nomad.hcl

variable "image" {
  type    = string
  default = "callboard"
}

job "callboard" {
  type = "system"

  # One client after the other, each when the one before has drained.
  update {
    max_parallel = 1
    stagger      = "45s"
  }

  group "callboard" {
    network {
      mode = "host"

      port "http" {
        static = 8080
      }

      port "admin" {
        static = 9900
      }
    }

    service {
      name = "callboard"
      port = "http"

      check {
        type     = "http"
        path     = "/healthz"
        interval = "2s"
        timeout  = "1s"
      }
    }

    task "callboard" {
      driver = "docker"

      config {
        image        = var.image
        network_mode = "host"
        args         = ["run", "--config", "/local/proxy.toml"]
      }

      # More than notice + deadline. A client allows 30 s unless its own max_kill_timeout is as long.
      kill_signal  = "SIGTERM"
      kill_timeout = "45s"

      template {
        destination = "local/proxy.toml"
        # Read again, without a restart.
        change_mode   = "signal"
        change_signal = "SIGHUP"

        data = <<-EOF
          workers = 2

          [[listen]]
          address = "0.0.0.0:8080"
          health_path = "/healthz"

          [admin]
          address = "127.0.0.1:9900"

          [drain]
          notice = "10s"
          deadline = "30s"

          [snapshot]
          file = "/alloc/data/snapshot.json"

          [registry.consul]
          address = "http://127.0.0.1:8500"
          expose = { tags = ["public"] }

          [[route]]
          host = "{service}.example.com"
          service = "{service}"
        EOF
      }

      # For two workers and 20,000 clients: docs/production.md#memory.
      resources {
        cpu    = 1000
        memory = 1280
      }
    }
  }
}
