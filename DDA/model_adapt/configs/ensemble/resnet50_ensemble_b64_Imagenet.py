_base_ = ["../_base_/imagenet.py"]
model = dict(
    type="ImageClassifier",
    backbone=dict(type="ResNet", depth=50, num_stages=4, out_indices=(3,), style="pytorch"),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead", num_classes=1000, in_channels=2048, loss=dict(type="CrossEntropyLoss")
    ),
)
