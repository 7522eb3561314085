#!/usr/bin/env bash
# The chart in kind: images built and loaded, the release installed into a restricted namespace, `helm test` to its end
# (a training that completes), and nothing left after it is uninstalled. Needs docker, kind, kubectl and helm; about
# 25 GB of disk. KEEP=1 leaves the cluster. Nothing but the kind cluster `toolorchestra` is touched.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

name=toolorchestra context=kind-toolorchestra namespace=toolorchestra-system tag=kind
missing=()
for program in docker kind kubectl helm; do command -v "$program" >/dev/null || missing+=("$program"); done
if ((${#missing[@]})); then
  echo "make kind-e2e: not installed: ${missing[*]} (docker.com, kind.sigs.k8s.io, kubernetes.io/docs/tasks/tools, helm.sh);" \
    "where there is no docker, \`make e2e\` runs the same on a node of its own (docs/testbed.md)" >&2
  exit 1
fi
if kind get clusters 2>/dev/null | grep -qx "$name"; then
  echo "make kind-e2e: there is a kind cluster $name already: kind delete cluster --name $name" >&2
  exit 1
fi

say() { echo "kind-e2e: $*" >&2; }
k() { kubectl --context "$context" "$@"; }
h() { helm --kube-context "$context" --namespace "$namespace" "$@"; }
finish() {
  status=$?
  if ((status)); then
    k get orchestratortrainings,expertpools,pods,pvc -A 2>/dev/null || true
    k -n "$namespace" get events --sort-by=.lastTimestamp 2>/dev/null | tail -40 || true
    k -n "$namespace" logs -l app.kubernetes.io/component=operator --tail=60 2>/dev/null || true
  fi
  [[ ${KEEP:-} ]] || kind delete cluster --name "$name" >/dev/null 2>&1 || true
  exit "$status"
}

say "building images"
docker build --quiet -f images/operator/Dockerfile -t "toolorchestra-operator:$tag" .
docker build --quiet -f images/worker/Dockerfile -t toolorchestra-worker:plain .
docker build --quiet -f images/cluster/Dockerfile -t toolorchestra-cpu:plain .
for role in worker cpu; do  # the demo's model, so that nothing is downloaded
  docker build --quiet -f tests/e2e/cluster/Dockerfile.model --build-arg "IMAGE=toolorchestra-$role:plain" \
    -t "toolorchestra-$role:$tag" examples/demo
done

trap finish EXIT
say "creating the cluster"
kind create cluster --config tests/kind/cluster.yaml --wait 180s
for role in operator worker cpu; do kind load docker-image --name "$name" "toolorchestra-$role:$tag"; done

say "installing the chart"
k create namespace "$namespace"
k label namespace "$namespace" pod-security.kubernetes.io/enforce=restricted
h install release charts/toolorchestra --values tests/kind/values.yaml --wait --timeout 10m

say "testing it: a training to its end"
h test release --timeout 40m

say "uninstalling it"
h uninstall release --wait --timeout 5m
k delete crd orchestratortrainings.toolorchestra.dev expertpools.toolorchestra.dev
k -n "$namespace" wait --for=delete pod,pvc --all --timeout=180s
left=$(k get all,pvc,configmaps,secrets,roles,rolebindings,serviceaccounts,networkpolicies -n "$namespace" -o name |
  grep -vE '/(kube-root-ca.crt|default)$' || true)
left+=$(k get clusterroles,clusterrolebindings -o name -l app.kubernetes.io/part-of=toolorchestra)
[[ -z $left ]] || { say "left behind: $left"; exit 1; }
say "passed"
