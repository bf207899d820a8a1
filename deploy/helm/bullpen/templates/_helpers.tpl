{{- define "bullpen.image" -}}
{{ with .root.Values.image.registry }}{{ . }}/{{ end }}bullpen/{{ .name }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "bullpen.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/part-of: bullpen
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "bullpen.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "bullpen.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "bullpen.fromSecret" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef: {name: {{ .root.Values.secret }}, key: {{ .key | default .name }}{{ if .optional }}, optional: true{{ end }}}
{{- end }}

{{- define "bullpen.placed" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* root, name, told (the role's values), args, user, password, inbox; worker: its backend, or nothing. */ -}}
{{- define "bullpen.role" -}}
{{- $books := ne .name "gateway" -}}
{{- $outside := has (default "" .worker) (list "openai" "gemini" "anthropic" "ollama") -}}
{{- $keyed := has (default "" .worker) (list "openai" "gemini" "anthropic") -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .name }}
  labels: {{- include "bullpen.labels" . | nindent 4 }}
spec:
  {{- if not (and (eq .name "local-worker") .root.Values.autoscaling.enabled) }}
  replicas: {{ .told.replicas }}
  {{- end }}
  selector: {matchLabels: {app.kubernetes.io/name: {{ .name }}}}
  strategy: # the new one serves before the old one is asked to finish what it does
    type: RollingUpdate
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  template:
    metadata:
      labels:
        {{- include "bullpen.labels" . | nindent 8 }}
        {{- if .worker }}
        bullpen.worker: "true"
        {{- end }}
        {{- if $outside }}
        bullpen.outside: "true"
        {{- end }}
        {{- if eq .name "telemetry" }}
        bullpen.books: "true"
        {{- end }}
      annotations: {prometheus.io/scrape: "true", prometheus.io/port: "8223"}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: 40 # it has 30 s to finish what it does
      securityContext: {{- include "bullpen.podSecurity" 10001 | nindent 8 }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector: {matchLabels: {app.kubernetes.io/name: {{ .name }}}}
      {{- include "bullpen.placed" .root | indent 6 }}
      containers:
        - name: {{ .name }}
          image: {{ include "bullpen.image" . }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args: {{ toJson .args }}
          {{- if eq .name "gateway" }}
          ports: [{containerPort: 4000}]
          lifecycle: # the Service sends nobody here any more before it stops listening
            preStop: {exec: {command: [python, -IS, -c, "import time; time.sleep(5)"]}}
          {{- end }}
          env:
            - {name: NATS_URL, value: {{ .root.Values.nats.url | quote }}}
            - {name: NATS_USER, value: {{ .user }}}
            - {name: NATS_INBOX_PREFIX, value: {{ .inbox }}}
            {{- if gt (int .root.Values.nats.replicas) 1 }}
            - {name: NATS_REPLICAS, value: {{ .root.Values.nats.replicas | quote }}}
            {{- end }}
            {{- include "bullpen.fromSecret" (dict "root" .root "name" "NATS_PASSWORD" "key" .password) | nindent 12 }}
            {{- if $books }}
            {{- include "bullpen.fromSecret" (dict "root" .root "name" "BULLPEN_CONTENT_KEY" "key" "BOOKS_DIGEST_PASSWORD") | nindent 12 }}
            {{- include "bullpen.fromSecret" (dict "root" .root "name" "BULLPEN_TELEMETRY__CONTENT" "key" "BOOKS_CONTENT" "optional" true) | nindent 12 }}
            {{- include "bullpen.fromSecret" (dict "root" .root "name" "BULLPEN_TELEMETRY__MODE" "key" "BOOKS_MODE" "optional" true) | nindent 12 }}
            {{- else }}
            - {name: BULLPEN_GATEWAY__LISTEN, value: "0.0.0.0:4000"}
            - {name: BULLPEN_GATEWAY__KEYS, value: required}
            {{- end }}
            - {name: BULLPEN_LOG, value: json}
            - {name: BULLPEN_STATUS, value: "0.0.0.0:8223"}
            {{- include "bullpen.fromSecret" (dict "root" .root "name" "OTEL_EXPORTER_OTLP_ENDPOINT" "optional" true) | nindent 12 }}
            {{- if eq .name "telemetry" }}
            {{- if .root.Values.postgres.enabled }}
            {{- include "bullpen.fromSecret" (dict "root" .root "name" "POSTGRES_PASSWORD") | nindent 12 }}
            - {name: DATABASE_URL, value: "postgresql://bullpen:$(POSTGRES_PASSWORD)@postgres:5432/bullpen"}
            {{- else }}
            - name: DATABASE_URL
              valueFrom:
                secretKeyRef: {name: {{ required "postgres.urlSecret.name: the Secret with the address of your database" .root.Values.postgres.urlSecret.name }}, key: {{ .root.Values.postgres.urlSecret.key }}}
            {{- end }}
            {{- end }}
            {{- if $keyed }}
            - {name: {{ upper .worker }}_API_KEY_FILE, value: /run/secrets/bullpen/key}
            {{- include "bullpen.fromSecret" (dict "root" .root "name" (printf "%s_BASE_URL" (upper .worker))) | nindent 12 }}
            {{- end }}
            {{- if eq (default "" .worker) "ollama" }}
            {{- include "bullpen.fromSecret" (dict "root" .root "name" "OLLAMA_HOST") | nindent 12 }}
            {{- include "bullpen.fromSecret" (dict "root" .root "name" "OLLAMA_CONTEXT_LENGTH" "optional" true) | nindent 12 }}
            {{- end }}
          resources: {{- toYaml .told.resources | nindent 12 }}
          securityContext: {{- include "bullpen.containerSecurity" . | nindent 12 }}
          startupProbe:
            exec: {command: [python, -IS, /app/bullpen/health_check.py, /healthz]}
            periodSeconds: 5
            timeoutSeconds: 5
            failureThreshold: 24
          readinessProbe:
            exec: {command: [python, -IS, /app/bullpen/health_check.py, /readyz]}
            periodSeconds: 5
            timeoutSeconds: 5
          livenessProbe: # asks only whether the loop turns; patient, because loading a model may hold it up
            exec: {command: [python, -IS, /app/bullpen/health_check.py, /healthz]}
            periodSeconds: 15
            timeoutSeconds: 5
            failureThreshold: 8
          volumeMounts:
            - {name: config, mountPath: /config, readOnly: true}
            {{- if $books }}
            - {name: data, mountPath: /data}
            {{- end }}
            - {name: tmp, mountPath: /tmp}
            {{- if $keyed }}
            - {name: key, mountPath: /run/secrets/bullpen, readOnly: true}
            {{- end }}
      volumes:
        - {name: config, configMap: {name: {{ .name }}}}
        {{- if $books }}
        - {name: data, emptyDir: {sizeLimit: 2Gi}} # what JetStream has not taken yet; it goes with the pod
        {{- end }}
        - {name: tmp, emptyDir: {medium: Memory, sizeLimit: 64Mi}}
        {{- if $keyed }}
        - {name: key, secret: {secretName: {{ .root.Values.secret }}, defaultMode: 0440, items: [{key: {{ upper .worker }}_API_KEY, path: key}]}}
        {{- end }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .name }}
  labels: {{- include "bullpen.labels" . | nindent 4 }}
data:
  config.yaml: {{ .told.config | default (.root.Files.Get (printf "files/%s.yaml" .name)) | toJson }}
{{- if or (gt (int .told.replicas) 1) (and (eq .name "local-worker") .root.Values.autoscaling.enabled) }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  labels: {{- include "bullpen.labels" . | nindent 4 }}
spec:
  {{- if .worker }}
  maxUnavailable: 1
  {{- else }}
  minAvailable: 1
  {{- end }}
  selector: {matchLabels: {app.kubernetes.io/name: {{ .name }}}}
{{- end }}
{{- end }}
