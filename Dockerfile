# The whole mesh in one container: NATS, Postgres, a Manager, telemetry, the gateway, and a worker with the small model.
#   docker build -t bullpen/mesh .
#   docker run -p 127.0.0.1:4000:4000 -v bullpen:/data bullpen/mesh
# docs/one-container.md explains it. One image per role: docker-bake.hcl.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
COPY requirements-run.lock /requirements.lock
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: -r /requirements.lock
RUN printf '#!/venv/bin/python\nimport sys\nsys.path.insert(0, "/app")\nfrom bullpen.cli import main\nmain()\n' >/venv/bin/bullpen \
    && chmod 755 /venv/bin/bullpen

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="bullpen" org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.description="A mesh of language models over NATS, whole in one container" \
      org.opencontainers.image.licenses="Apache-2.0"
# llama.cpp computes with OpenMP; tini takes care of what a killed process leaves behind. Postgres wants a user by name.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends libgomp1 tini && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 bullpen && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin bullpen \
    && install -d -o 10001 -g 10001 -m 700 /data
COPY --from=build /venv /venv
COPY . /app
WORKDIR /app
# `docker stop` gives ten seconds unless told otherwise: seven of them are for answers under way.
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 BULLPEN_IMAGE=mesh \
    BULLPEN_DATA_DIR=/data BULLPEN_CONFIG_DIR=/data/config BULLPEN_DRAIN_WITHIN=7 \
    BULLPEN_GATEWAY__LISTEN=0.0.0.0:4000 BULLPEN_GATEWAY__KEYS=required
USER 10001:10001
VOLUME /data
EXPOSE 4000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=90s --retries=6 \
  CMD ["env", "BULLPEN_STATUS=127.0.0.1:4000", "python", "-IS", "/app/bullpen/health_check.py", "/readyz"]
ENTRYPOINT ["tini", "--", "bullpen"]
CMD ["up"]
