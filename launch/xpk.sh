#!/usr/bin/env bash
# GKE through XPK: a workload on an existing cluster of TPUs (https://github.com/AI-Hypercomputer/xpk).
#   launch/xpk.sh --cluster NAME --workload NAME --type v5litepod-64 --image IMAGE -- --config cifar_noise --out
# /shared/run The image needs Python with JAX for TPU and sparsejax. A lost worker is restarted, and the run resumes.
set -euo pipefail

fail() {
  echo "error: $*" >&2
  exit 2
}

cluster="" workload="" type=v5litepod-8 image="" zone="" project="" slices=1 dry=false
value() { [ $# -ge 2 ] || fail "$1 needs a value."; }
while [ $# -gt 0 ]; do
  case "$1" in
    --cluster) value "$@"; cluster=$2; shift 2 ;;
    --workload) value "$@"; workload=$2; shift 2 ;;
    --type) value "$@"; type=$2; shift 2 ;;
    --image) value "$@"; image=$2; shift 2 ;;
    --zone) value "$@"; zone=$2; shift 2 ;;
    --project) value "$@"; project=$2; shift 2 ;;
    --slices) value "$@"; slices=$2; shift 2 ;;
    --dry-run) dry=true; shift ;;
    -h | --help) sed -n '2,4s/^# //p' "$0"; exit 0 ;;
    --) shift; break ;;
    *) fail "'$1' is not a valid option; launch/xpk.sh --help shows a command." ;;
  esac
done
for name in cluster workload image; do
  [ -n "${!name}" ] || fail "--$name is missing; launch/xpk.sh --help shows a command."
done
[ $# -gt 0 ] || fail "arguments of sparsejax.launch are missing; such as -- --config mnist_kwinners --out /shared/run."

words=(xpk workload create --cluster "$cluster" --workload "$workload" --tpu-type "$type" --num-slices "$slices"
  --docker-image "$image" --max-restarts 10
  --command "python -m sparsejax.launch --distributed $(printf '%q ' "$@")")
[ -z "$zone" ] || words+=(--zone "$zone")
[ -z "$project" ] || words+=(--project "$project")
if $dry; then
  printf '%q ' "${words[@]}"
  echo
else
  "${words[@]}"
fi
