# Every image, for both architectures, with an SBOM and its provenance attached:
#   docker buildx bake --push                               # REGISTRY/bullpen/mesh:0.1.0 and one per role
#   docker buildx bake mesh --load --set '*.platform=linux/amd64'    # one of them, for this machine
# REGISTRY, VERSION and PYTHON_IMAGE come from the environment. The wheels of every lock exist for both architectures.

variable "REGISTRY" { default = "" }
variable "VERSION" { default = "0.1.0" }
variable "PYTHON_IMAGE" { default = "python:3.13-slim" }

group "default" {
  targets = ["mesh", "role"]
}

target "common" {
  context   = "."
  args      = { PYTHON_IMAGE = PYTHON_IMAGE }
  platforms = ["linux/amd64", "linux/arm64"]
  attest    = ["type=sbom", "type=provenance,mode=max"]
  labels    = { "org.opencontainers.image.version" = VERSION }
}

# The whole mesh in one.
target "mesh" {
  inherits   = ["common"]
  dockerfile = "Dockerfile"
  tags       = ["${REGISTRY == "" ? "" : "${REGISTRY}/"}bullpen/mesh:${VERSION}"]
}

target "role" {
  inherits = ["common"]
  name     = image.name
  matrix = {
    image = [
      { name = "manager", folder = "manager" },
      { name = "telemetry", folder = "telemetry" },
      { name = "gateway", folder = "gateway" },
      { name = "local-worker", folder = "workers/local" },
      { name = "simulated-worker", folder = "workers/simulated" },
      { name = "ollama-worker", folder = "workers/ollama" },
      { name = "openai-worker", folder = "workers/openai" },
      { name = "gemini-worker", folder = "workers/gemini" },
      { name = "anthropic-worker", folder = "workers/anthropic" },
    ]
  }
  dockerfile = "${image.folder}/Dockerfile"
  tags       = ["${REGISTRY == "" ? "" : "${REGISTRY}/"}bullpen/${image.name}:${VERSION}"]
}
