#!/bin/sh
# Ask with the nats tool. It gives up after 5 s silently unless --timeout says otherwise.
exec nats req infer.auto "$1" --raw --timeout 60s -s "${NATS_URL:-nats://127.0.0.1:4222}"
