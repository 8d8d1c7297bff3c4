#!/usr/bin/env bash
# Teachers and the degraded student of CIFAR-10 from a published classifier and a few thousand lossless training images, on a CPU:
# the source classifier and the student on clean held-out images, and on images with common corruptions.
#   scripts/cifar_students.sh SOURCE.th TRAIN.npz CORRUPTED.npz [OUT]
# TRAIN.npz: train_x, train_y, test_x, test_y; CORRUPTED.npz: as CIFAR-10-C (dataset/README.md). Safe to run again.
set -euo pipefail
source_=$1 train=$2 corrupted=$3 out=${4:-runs/cifar_students}
[ -d .venv ] && source .venv/bin/activate

known=clean,jpeg,blur,noise
config() { # KIND STAGE: a config of one's own on top of the published one
    mkdir -p "$out"
    cat > "$out/$2.yaml" <<YAML
base: configs/$1/CIFAR10/ResNet20/$2.yaml
dataset: CIFAR10lossless
source: $source_
data: {root: $train, held_out: 0.1}
preprocess: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
train: {epochs: ${EPOCHS:-6}, batch_size: 128, warmup: 20, clip_norm: 1}
optimizer: {type: AdamW, lr: ${LR:-0.001}, weight_decay: 0.01}
schedule: {type: cosine}
${LOSS:+loss: $LOSS}
YAML
}

config ind deg
for one in jpeg blur noise; do train.py -c "$out/deg.yaml" --dt "$one" --save_dir "$out/saved"; done
EPOCHS=${STUDENT_EPOCHS:-8} LOSS="{cross_entropy: 1, cosine_inheritance: ${WEIGHT:-10}}" config deg_all degDistill
train_all_deg.py -c "$out/degDistill.yaml" --dt "$known" --save_dir "$out/saved"
student=$(ls -d "$out"/saved/combined_deg/deg_all/CIFAR10lossless_ResNet20_degDistill/train/*/model_best.pth | tail -n 1)

for classifier in "$source_" "$student"; do
    name=$(basename "$(dirname "$classifier")")
    [ "$classifier" = "$source_" ] && name=source || name=student
    test_corrupt.py -c "$out/deg.yaml" -r "$classifier" --dd "$corrupted" --out "$out/$name"
    test_corrupt.py -c "$out/deg.yaml" -r "$classifier" --dd "$train" --corruption clean --sev cifar_test --out "$out/$name-clean"
done
