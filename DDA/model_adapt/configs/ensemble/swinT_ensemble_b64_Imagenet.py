_base_ = ["../_base_/imagenet.py"]
model = dict(
    type="ImageClassifier",
    backbone=dict(type="SwinTransformer", arch="tiny", img_size=224, drop_path_rate=0.2),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead", num_classes=1000, in_channels=768, loss=dict(type="CrossEntropyLoss")
    ),
)
