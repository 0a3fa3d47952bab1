#!/usr/bin/env bash
# One process of a job step: tells it its place in the words of torch's launchers, and becomes the command.
# SLURM may send its warning while Python still starts, and to be killed by it would be worse than to miss it:
# training also knows when the job ends.
trap '' USR2
export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
exec "$@"
