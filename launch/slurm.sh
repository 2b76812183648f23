#!/usr/bin/env bash
# SLURM: one process per GPU of the nodes. From the root of a checkout, with the environment active:
#   launch/slurm.sh --nodes 2 --gpus 4 --time 04:00:00 -- --config cifar_noise --out /shared/runs/cifar_noise
# The job is signalled five minutes before its time limit, saves a checkpoint, and is requeued to resume.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=arguments.sh
source "$(dirname "${BASH_SOURCE[0]}")/arguments.sh"

nodes=1 gpus=1 time=01:00:00 partition="" dry=false
while [ $# -gt 0 ]; do
  case "$1" in
    --nodes) take nodes "$number_pattern" "a number of nodes" "$@"; shift 2 ;;
    --gpus) take gpus "$number_pattern" "a number of GPUs" "$@"; shift 2 ;;
    --time) take time '([0-9]{1,4}-)?[0-9]{1,6}(:[0-9]{1,2}){0,2}' "a time such as 04:00:00 or 2-12" "$@"; shift 2 ;;
    --partition) take partition '[A-Za-z0-9_][-A-Za-z0-9_.,]*' "the name of a partition" "$@"; shift 2 ;;
    --dry-run) dry=true; shift ;;
    -h | --help) sed -n '2,4s/^# //p' "$0"; exit 0 ;;
    --) shift; break ;;
    *) fail "'$1' is not a valid option; expected --nodes N, --gpus N (of a node), --time T, --partition P, --dry-run, --." ;;
  esac
done
[ $# -gt 0 ] || fail "arguments of sparsejax.launch are missing; such as -- --config mnist_kwinners --out /shared/run."

quote "$@"
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
