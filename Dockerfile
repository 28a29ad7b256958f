FROM rust:1.95-bookworm AS build
# zlib-ng and aws-lc are C and are built with it.
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
# The caches keep the dependencies between builds. Cargo compares times of files, and a fresh
# checkout can be older than what the cache was built from; touched, our own crate is always built.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    touch src/lib.rs src/main.rs \
    && cargo build --release --locked --bin yatagarasu \
    && cp target/release/yatagarasu .

FROM debian:bookworm-slim
# The trust in the stores' certificates.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --chmod=755 scripts/healthcheck.sh /usr/local/bin/healthcheck
COPY --from=build /build/yatagarasu /usr/local/bin/yatagarasu
# A number: Kubernetes' runAsNonRoot cannot tell who a name is.
USER 10001:10001
EXPOSE 8080 9090
# The slim image holds neither curl nor wget, and curl would bring a dozen libraries to patch. bash
# is there, and the script needs nothing else. With another server.port, give the run another
# health command.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/usr/local/bin/healthcheck", "8080"]
# The exec form: the program is PID 1 itself, and SIGHUP and SIGTERM reach it and no shell.
ENTRYPOINT ["/usr/local/bin/yatagarasu"]
CMD ["--config", "/etc/yatagarasu/config.yaml"]
