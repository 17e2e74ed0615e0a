"""The closed table: what every registered network weighs.

Parameters with 1000 classes (10 for CIFAR), multiply-adds at the native image size. The figures
with BatchNorm are torchvision's for resnet*_v1, timm's for resnet50 (resnetv2_50) and the
published ones of MobileNetV2, MnasNet-B1 and EfficientNet.
"""

from evonorm_jax.models.table import Row

SIZES = {
    "resnet18": Row(11_691_816, 11_695_720, 1_826_918_400),
    "resnet34": Row(21_799_976, 21_807_592, 3_676_606_464),
    "resnet50": Row(25_549_352, 25_572_072, 4_089_184_256),
    "resnet101": Row(44_541_480, 44_590_312, 7_801_405_440),
    "resnet152": Row(60_185_128, 60_257_000, 11_513_626_624),
    "resnet200": Row(64_666_152, 64_750_312, 15_007_481_856),
    "resnet18_v1": Row(11_689_512, None, 1_814_073_344),
    "resnet34_v1": Row(21_797_672, None, 3_663_761_408),
    "resnet50_v1": Row(25_557_032, None, 4_089_184_256),
    "resnet101_v1": Row(44_549_160, None, 7_801_405_440),
    "resnet152_v1": Row(60_192_808, None, 11_513_626_624),
    "cifar_resnet20": Row(272_282, 272_970, 40_813_184),
    "cifar_resnet32": Row(466_714, 467_850, 69_124_736),
    "cifar_resnet56": Row(855_578, 857_610, 125_747_840),
    "cifar_resnet110": Row(1_730_522, 1_734_570, 253_149_824),
    "mobilenet_v2": Row(3_504_872, 3_520_424, 300_774_272),
    "mnasnet_b1": Row(4_383_312, 4_400_544, 314_415_872),
    "efficientnet_b0": Row(5_288_548, 5_307_748, 385_814_752),
    "efficientnet_b1": Row(7_794_184, 7_822_616, 686_802_832),
    "efficientnet_b2": Row(9_109_994, 9_140_954, 993_561_872),
    "efficientnet_b3": Row(12_233_232, 12_273_272, 1_827_141_392),
    "efficientnet_b4": Row(19_341_616, 19_399_112, 4_393_771_024),
    "efficientnet_b5": Row(30_389_784, 30_469_160, 10_266_384_752),
    "efficientnet_b6": Row(43_040_704, 43_143_888, 19_067_593_536),
    "efficientnet_b7": Row(66_347_960, 66_490_904, 37_745_884_192),
    "resnet50_cifar": Row(1_482_266, 1_487_946, 81_449_984),
    "mobilenet_v2_cifar": Row(590_410, 598_282, 26_324_224),
    "efficientnet_b0_cifar": Row(1_077_932, 1_087_724, 35_762_496),
}
