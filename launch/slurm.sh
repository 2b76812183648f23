#!/usr/bin/env bash
# SLURM: one process per GPU of the nodes. From the root of a checkout, with the environment active:
#   launch/slurm.sh --nodes 2 --gpus 4 --time 04:00:00 -- --config cifar_noise --out /shared/runs/cifar_noise
# The job is signalled five minutes before its time limit, saves a checkpoint, and is requeued to resume.
set -euo pipefail

fail() {
  echo "error: $*" >&2
  exit 2
}

nodes=1 gpus=1 time=01:00:00 partition="" dry=false
value() { [ $# -ge 2 ] || fail "$1 needs a value."; }
while [ $# -gt 0 ]; do
  case "$1" in
    --nodes) value "$@"; nodes=$2; shift 2 ;;
    --gpus) value "$@"; gpus=$2; shift 2 ;;
    --time) value "$@"; time=$2; shift 2 ;;
    --partition) value "$@"; partition=$2; shift 2 ;;
    --dry-run) dry=true; shift ;;
    -h | --help) sed -n '2,4s/^# //p' "$0"; exit 0 ;;
    --) shift; break ;;
    *) fail "'$1' is not a valid option; expected --nodes N, --gpus N (of a node), --time T, --partition P, --dry-run, --." ;;
  esac
done
[ $# -gt 0 ] || fail "arguments of sparsejax.launch are missing; such as -- --config mnist_kwinners --out /shared/run."

words=$(printf '%q ' "$@")
job="#!/usr/bin/env bash
#SBATCH --job-name=sparsejax
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=$gpus
#SBATCH --gpus-per-task=1
#SBATCH --time=$time
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
${partition:+#SBATCH --partition=$partition
}
set -u
srun python -m sparsejax.launch --distributed $words &
step=\$!
again() {
  kill -TERM \"\$step\"
  wait \"\$step\"
  case \$? in 0 | 143) scontrol requeue \"\$SLURM_JOB_ID\" ;; esac # 143: it was not training, nothing was lost
  exit
}
trap again TERM
wait \"\$step\"
"
if $dry; then
  printf '%s' "$job"
else
  printf '%s' "$job" | sbatch
fi
