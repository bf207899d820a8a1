#!/bin/sh
# A worker in bash: answers on infer.bash. `-q q` joins the queue group that workers share.
exec nats reply infer.bash -q q -s "${NATS_URL:-nats://127.0.0.1:4222}" \
  --command 'echo {\"output\":\"hello from bash\"}'
