#!/bin/bash
# Succeeds if the program answers /healthz with 200 on port $1 of this host. Written for bash, because bash
# is in the base image and can open a connection itself.
set -euo pipefail
exec 3<>"/dev/tcp/127.0.0.1/$1"
printf 'GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
read -r answer <&3
[[ $answer == 'HTTP/1.1 200 '* ]]
