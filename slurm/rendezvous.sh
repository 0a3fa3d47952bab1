# How the processes of a job find each other, and what NCCL should do. Sourced by train.sbatch.
# A variable that is set already stays as it is.

# The first node by its address as SLURM knows it: host names need not resolve on every network.
if [[ -z ${MASTER_ADDR:-} ]]; then
    read -r first_node < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    MASTER_ADDR=$(scontrol --oneliner show node "$first_node" | grep -o 'NodeAddr=[^ ]*')
    MASTER_ADDR=${MASTER_ADDR#NodeAddr=}
fi
# From the job's number, so that two jobs on one node do not meet; below the ports that systems give out.
MASTER_PORT=${MASTER_PORT:-$((10000 + SLURM_JOB_ID % 20000))}
export MASTER_ADDR MASTER_PORT

# Without it, NCCL says nothing about why it cannot connect.
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
# A link that the fabric trains anew is away for longer than the default bears; 22 is about a minute in all.
export NCCL_IB_TIMEOUT=${NCCL_IB_TIMEOUT:-22}
