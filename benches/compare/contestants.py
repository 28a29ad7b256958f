"""The store and the proxies: how each is configured and started. Measures nothing.

Everyone passes `/public/<object>` to `/photos/<object>` at the store, keeps connections on both
sides, has one worker unless told otherwise, buffers of 64 KiB where that can be said, and writes one
line a request to a file unless the log is off.
"""

import base64
import hashlib
import hmac
import json
import os

from machine import LOAD_CPU, PROXY_CPUS, Process, find, free_port

SIZES = {"1 KiB": 2**10, "64 KiB": 2**16, "1 MiB": 2**20, "64 MiB": 2**26}
SECRET = "a-secret-of-at-least-32-characters"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "a-secret-key"}
HERE = os.path.dirname(os.path.abspath(__file__))
OURS = "**yatagarasu**"
NGINX_MODULES = "/usr/lib/nginx/modules"


def object_name(size):
    return size.replace(" ", "")


def token():
    """Valid until 2096."""

    def part(value):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    claims = {"sub": "ann", "role": "reader", "exp": 4_000_000_000}
    signed = part({"alg": "HS256", "typ": "JWT"}) + b"." + part(claims)
    return (signed + b"." + part(hmac.digest(SECRET.encode(), signed, hashlib.sha256))).decode()


class Contestant:
    """A running proxy. `signs` and `checks` say which of our two works it does as well."""

    def __init__(self, name, process, port, prefix="/public/", signs=False, checks=False):
        self.name, self.process, self.port = name, process, port
        self.prefix, self.signs, self.checks = prefix, signs, checks

    def url(self, size, private=False):
        prefix = "/private/" if private else self.prefix
        return f"http://127.0.0.1:{self.port}{prefix}{object_name(size)}"


class Field:
    """A folder with objects, the store that serves them, and where to find the programs."""

    def __init__(self, folder, binaries, logging=True, connections=4096):
        self.folder, self.binaries, self.logging, self.connections = folder, binaries, logging, connections
        os.makedirs(self.path("www/photos"))
        for size, count in SIZES.items():
            with open(self.path(f"www/photos/{object_name(size)}"), "wb") as file:
                file.write(os.urandom(min(count, 2**20)) * (count // min(count, 2**20)))
        self.running = []
        self.store_port = free_port()
        server = f"""
            open_file_cache max=16; sendfile on;
            server {{
                listen 127.0.0.1:{self.store_port} backlog=4096; root {self.path("www")};
                location = /status {{ stub_status; }}
                location = /photos/signed {{
                    if ($http_authorization ~ "^AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/.* Signature=[0-9a-f]+$") {{
                        return 200;
                    }}
                    return 403;
                }}
                location /tenant- {{ rewrite ^ /photos/1KiB break; }}
            }}"""
        self.store = self._nginx("store", server, "", log="off", cpus=LOAD_CPU)
        self.store.wait_for(self.store_port)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "w") as file:
            file.write(text)
        return self.path(name)

    def start(self, command, name, cpus=PROXY_CPUS, environment=None):
        process = Process(command, self.path(f"{name}.log"), cpus, environment)
        self.running.append(process)
        return process

    def stop(self):
        for process in reversed(self.running):
            process.stop()

    # Each returns a contestant, or None when its program is not installed.

    def empty(self, threads=1, cpus=PROXY_CPUS):
        port = free_port()
        listen, store = f"127.0.0.1:{port}", f"127.0.0.1:{self.store_port}"
        command = [f"{self.binaries}/examples/empty_proxy", listen, store, str(threads)]
        process = self.start(command, "empty", cpus)
        process.wait_for(port)
        return Contestant("empty Pingora proxy", process, port, prefix="/photos/")

    def yatagarasu(self, threads=1, cpus=PROXY_CPUS, buckets=0):
        port = free_port()
        endpoint = f'endpoint: "http://127.0.0.1:{self.store_port}", region: us-east-1'
        keys = "access_key: AKIDEXAMPLE, secret_key: a-secret-key"
        config = f"server: {{ address: 127.0.0.1, port: {port}, threads: {threads} }}\n"
        config += f"log: {{ level: {'info' if self.logging else 'error'} }}\n"
        config += f"jwt: {{ secret: {SECRET} }}\nbuckets:\n"
        for name, auth in [("public", "false"), ("private", "true")]:
            config += f"""- name: {name}
  path_prefix: /{name}
  s3: {{ bucket: photos, {endpoint}, {keys} }}
  auth: {{ enabled: {auth} }}
"""
        for n in range(buckets):
            config += f"""- name: tenant-{n}
  path_prefix: /tenants/t{n}
  s3: {{ bucket: tenant-{n}, {endpoint}, {keys} }}
  auth: {{ enabled: false }}
"""
        name = f"yatagarasu-{port}"
        path = self.write(f"{name}.yaml", config)
        process = self.start([f"{self.binaries}/yatagarasu", "--config", path], name, cpus)
        process.wait_for(port)
        contestant = Contestant(OURS, process, port, signs=True, checks=True)
        contestant.config = path
        return contestant

    def nginx(self):
        server = "location /public/ { proxy_pass http://store/photos/; }"
        return self._nginx_proxy("nginx", "", server, signs=False)

    def nginx_njs(self):
        module = f"{NGINX_MODULES}/ngx_http_js_module.so"
        if not os.path.exists(module):
            return None
        server = f"""
            js_path {HERE}; js_import signer from signer.js;
            js_set $amz_date signer.date; js_set $authorization signer.authorization;
            server_name 127.0.0.1:{self.store_port};
            location ~ ^/public/(.*)$ {{
                set $store_path /photos/$1;
                proxy_set_header Host 127.0.0.1:{self.store_port};
                proxy_set_header x-amz-date $amz_date;
                proxy_set_header x-amz-content-sha256 UNSIGNED-PAYLOAD;
                proxy_set_header Authorization $authorization;
                proxy_set_header Connection "";
                proxy_pass http://store$store_path;
            }}"""
        return self._nginx_proxy("nginx-njs", f"load_module {module};", server, signs=True)

    def _nginx_proxy(self, name, head, server, signs):
        if not find("nginx"):
            return None
        port = free_port()
        http = f"""
            upstream store {{ server 127.0.0.1:{self.store_port}; keepalive 256; keepalive_requests 1000000000; }}
            proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_buffers 8 64k; proxy_buffer_size 64k; proxy_busy_buffers_size 128k; proxy_max_temp_file_size 0;
            server {{ listen 127.0.0.1:{port} backlog=4096; {server} }}"""
        log = self.path(f"{name}.access") if self.logging else "off"
        process = self._nginx(name, http, head, log, PROXY_CPUS, CREDENTIALS)
        process.wait_for(port)
        return Contestant(name, process, port, signs=signs)

    def _nginx(self, name, http, head, log, cpus, environment=None):
        # A worker of root's nginx becomes `nobody`, who may not look into our folder.
        user = "user root;" if os.geteuid() == 0 else ""
        variables = " ".join(f"env {variable};" for variable in environment or {})
        folder = self.path(f"nginx-{name}")
        os.makedirs(folder)
        temporary = " ".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        )
        log = log if log == "off" else f'"{log}"'
        path = self.write(
            f"nginx-{name}.conf",
            f"""{head} {user} {variables} daemon off; worker_processes 1; worker_rlimit_nofile 65536;
            pid "{folder}/pid"; error_log stderr warn;
            events {{ worker_connections {self.connections}; }}
            http {{
                access_log {log}; keepalive_requests 1000000000; {temporary}
                {http}
            }}""",
        )
        return self.start([find("nginx"), "-p", folder, "-e", "stderr", "-c", path], f"nginx-{name}", cpus, environment)

    def haproxy(self):
        if not find("haproxy"):
            return None
        port = free_port()
        log = "log stdout format raw local0" if self.logging else ""
        path = self.write(
            "haproxy.cfg",
            f"""
global
    nbthread 1
    tune.bufsize 65536
    {log}
defaults
    mode http
    {"log global" if log else ""}
    {"option httplog" if log else ""}
    http-reuse always
    timeout connect 5s
    timeout client 75s
    timeout server 60s
frontend clients
    bind 127.0.0.1:{port} backlog 4096
    http-request set-var(txn.token) http_auth_bearer
    http-request deny deny_status 401 if {{ path_beg /private/ }} !{{ var(txn.token),jwt_verify("HS256","{SECRET}") 1 }}
    http-request replace-path /(public|private)/(.*) /photos/\\2
    default_backend store
backend store
    server store 127.0.0.1:{self.store_port}
""",
        )
        process = self.start([find("haproxy"), "-db", "-f", path], "haproxy")
        process.wait_for(port)
        return Contestant("HAProxy", process, port, checks=True)

    def envoy(self):
        program = find("envoy", "ENVOY")
        if not program:
            return None
        port = free_port()
        path = self.write("envoy.json", json.dumps(self._envoy_config(port)))
        command = [program, "-c", path, "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
        process = self.start(command, "envoy", environment=CREDENTIALS)
        process.wait_for(port)
        return Contestant("Envoy", process, port, signs=True, checks=True)

    def _envoy_config(self, port):
        def typed(name, kind, **fields):
            return {"name": name, "typed_config": {"@type": f"type.googleapis.com/envoy.extensions.{kind}", **fields}}

        def address(at):
            return {"socket_address": {"address": "127.0.0.1", "port_value": at}}

        def route(prefix):
            return {
                "match": {"prefix": prefix},
                "route": {"cluster": "store", "prefix_rewrite": "/photos/", "timeout": "0s"},
            }

        key = base64.urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode()
        jwks = json.dumps({"keys": [{"kty": "oct", "alg": "HS256", "k": key}]})
        jwt = typed(
            "envoy.filters.http.jwt_authn",
            "filters.http.jwt_authn.v3.JwtAuthentication",
            providers={"ours": {"local_jwks": {"inline_string": jwks}}},
            rules=[{"match": {"prefix": "/private/"}, "requires": {"provider_name": "ours"}}],
        )
        signing = typed(
            "envoy.filters.http.aws_request_signing",
            "filters.http.aws_request_signing.v3.AwsRequestSigning",
            service_name="s3",
            region="us-east-1",
            use_unsigned_payload=True,
        )
        # In front of the store and not of the client, so that what is signed is the path after its rewrite.
        codec = typed("envoy.filters.http.upstream_codec", "filters.http.upstream_codec.v3.UpstreamCodec")
        options = {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http_protocol_options": {}},
            "http_filters": [signing, codec],
        }
        router = typed("envoy.filters.http.router", "filters.http.router.v3.Router")
        log = typed(
            "envoy.access_loggers.file",
            "access_loggers.file.v3.FileAccessLog",
            path=self.path("envoy.access"),
        )
        manager = typed(
            "envoy.filters.network.http_connection_manager",
            "filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix="clients",
            access_log=[log] if self.logging else [],
            http_filters=[jwt, router],
            route_config={
                "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route("/public/"), route("/private/")]}]
            },
        )
        limits = {limit: 20_000 for limit in ["max_connections", "max_pending_requests", "max_requests"]}
        cluster = {
            "name": "store",
            "type": "STATIC",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
            "circuit_breakers": {"thresholds": [limits]},
            "load_assignment": {
                "cluster_name": "store",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(self.store_port)}}]}],
            },
        }
        listener = {"address": address(port), "filter_chains": [{"filters": [manager]}]}
        return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
