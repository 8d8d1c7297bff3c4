_base_ = ["../_base_/imagenet.py"]
model = dict(
    type="ImageClassifier",
    backbone=dict(type="ConvNeXt", arch="tiny", drop_path_rate=0.1),
    head=dict(
        type="LinearClsHead", num_classes=1000, in_channels=768, loss=dict(type="CrossEntropyLoss")
    ),
)
