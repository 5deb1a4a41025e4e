# The S3 store: a gateway to a folder; a folder in it is a bucket.
FROM ghcr.io/versity/versitygw:v1.7.0
# A new volume takes over the image's folder, its owner and the bucket.
RUN mkdir -p /data/mlflow && chown -R 1000:1000 /data
USER 1000:1000
VOLUME /data
CMD ["posix", "/data"]
