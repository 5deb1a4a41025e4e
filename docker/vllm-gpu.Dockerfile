# vLLM's own image, without root.
FROM vllm/vllm-openai:v0.32.0
RUN useradd --create-home --uid 1001 sage && mkdir /models && chown sage /models
USER sage
ENV HF_HOME=/models
VOLUME /models
ENTRYPOINT ["python3", "-m", "vllm.entrypoints.openai.api_server"]
