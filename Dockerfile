# syntax=docker/dockerfile:1
# Callboard in a container: the static binary, the certificate authorities, and proxy.toml.
#
#   docker build -t callboard .
#   docker run --network host --stop-timeout 45 -v "$PWD/proxy.toml:/etc/callboard/proxy.toml:ro" callboard
#
# The admin server and the embedded registry listen on loopback, which is the container's own
# without `--network host`: give them another address, and a token, to reach them from outside.
# SIGTERM begins a drain of `drain.notice` and `drain.deadline`, 33 s by default: an engine that kills
# after its own 10 s cuts requests.

FROM rust:1.95-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends musl-tools \
    && rm -rf /var/lib/apt/lists/* \
    && rustup target add "$(uname -m)-unknown-linux-musl"
ENV CARGO_PROFILE_DIST_STRIP=symbols
WORKDIR /src
# The dependencies are a layer of their own, which a change of src leaves as it is.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && echo 'fn main() {}' >src/main.rs \
    && touch src/lib.rs \
    && cargo build --profile dist --locked --bin callboard --target "$(uname -m)-unknown-linux-musl"
COPY proxy.toml ./
COPY src ./src
# The sources are older than what was built of the empty ones: cargo goes by their dates.
RUN touch src/lib.rs src/main.rs \
    && cargo build --profile dist --locked --bin callboard --target "$(uname -m)-unknown-linux-musl" \
    && mkdir -p /image/usr/bin /image/etc/ssl/certs /callboard/callboard-data \
    && cp "target/$(uname -m)-unknown-linux-musl/dist/callboard" /image/usr/bin \
    && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="Callboard" \
      org.opencontainers.image.description="A load-balancing reverse proxy that finds its backends in a registry" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /image /
COPY --from=build --chown=10001:10001 /callboard /etc/callboard
COPY proxy.toml /etc/callboard/
ENV PATH=/usr/bin

USER 10001:10001
# Where `run` looks for proxy.toml, and beside it the embedded registry's state.
WORKDIR /etc/callboard
VOLUME /etc/callboard/callboard-data
EXPOSE 8080

STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/usr/bin/callboard", "health"]
ENTRYPOINT ["/usr/bin/callboard"]
CMD ["run", "--config", "/etc/callboard/proxy.toml"]
