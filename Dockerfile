# Callboard in a container: the binary, the certificate authorities, and proxy.toml.
#
#   docker build -t callboard .
#   docker run --network host -v "$PWD/proxy.toml:/etc/callboard/proxy.toml:ro" callboard
#
# The admin server and the embedded registry listen on loopback, which is the container's own
# without `--network host`: give them another address, and a token, to reach them from outside.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock proxy.toml ./
COPY src ./src
RUN cargo build --profile dist --locked --bin callboard \
    && strip target/dist/callboard \
    && mkdir -p /callboard/callboard-data

FROM debian:bookworm-slim
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /src/target/dist/callboard /usr/local/bin/
COPY --from=build --chown=10001:10001 /callboard /etc/callboard
COPY proxy.toml /etc/callboard/

USER 10001:10001
# Where `run` looks for proxy.toml, and beside it the embedded registry's state.
WORKDIR /etc/callboard
VOLUME /etc/callboard/callboard-data
EXPOSE 8080

HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["callboard", "health"]
ENTRYPOINT ["callboard"]
CMD ["run", "--config", "/etc/callboard/proxy.toml"]
