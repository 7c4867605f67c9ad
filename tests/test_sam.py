import copy
from pathlib import Path

import pytest
import torch
from segment_anything.modeling.image_encoder import Attention

from cxrdemo.checkpoints import load_strictly, read_weights
from cxrdemo.inputs import MEDSAM_INPUT, InputSpec
from cxrdemo.sam import ARCHITECTURES, BlockAttention, SamNetwork, build_tinyvit_5m, build_vit_b


def test_vit_b_has_the_keys_and_shapes_of_the_published_file(vit_b: SamNetwork) -> None:
    from segment_anything import sam_model_registry

    published = sam_model_registry["vit_b"]().state_dict()
    ours = vit_b.state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in published.items()}


def test_a_pth_of_that_layout_loads(vit_b: SamNetwork, tmp_path: Path) -> None:
    torch.save(vit_b.state_dict(), tmp_path / "medsam_vit_b.pth")
    other = build_vit_b()
    load_strictly(other, read_weights(tmp_path / "medsam_vit_b.pth"), "medsam")
    key = "image_encoder.blocks.11.mlp.lin2.weight"
    assert torch.equal(other.state_dict()[key], vit_b.state_dict()[key])


def test_tinyvit_embeds_512_px_as_64_by_64() -> None:
    network = build_tinyvit_5m().eval()
    with torch.inference_mode():
        assert network.image_encoder(torch.zeros(1, 3, 512, 512)).shape == (1, 256, 64, 64)


def test_tinyvit_weights_fit_any_input_size() -> None:
    load_strictly(build_tinyvit_5m(256), build_tinyvit_5m(512).state_dict(), "test")


@pytest.mark.parametrize("side", [14, 20])
def test_attention_in_blocks_of_rows_is_sams_own(side: int) -> None:
    torch.manual_seed(0)
    plain = Attention(64, num_heads=2, use_rel_pos=True, input_size=(side, side)).eval()
    for table in (plain.rel_pos_h, plain.rel_pos_w):
        torch.nn.init.normal_(table)
    tokens = torch.randn(2, side, side, 64)
    blocks = copy.deepcopy(plain)
    blocks.__class__ = BlockAttention
    with torch.inference_mode():
        torch.testing.assert_close(blocks(tokens), plain(tokens), rtol=1e-4, atol=1e-5)


def test_the_vit_encoder_attends_in_blocks() -> None:
    encoder = build_vit_b().image_encoder
    assert all(isinstance(block.attn, BlockAttention) for block in encoder.blocks)


def test_an_architecture_is_built_for_the_inputs_that_it_is_given() -> None:
    assert ARCHITECTURES["sam-vit-b-1024"].inputs(64) == MEDSAM_INPUT
    tiny = ARCHITECTURES["sam-tinyvit-5m-512"]
    assert tiny.inputs(64) == InputSpec(hw=(64, 64))
    assert tiny.build(64).prompt_encoder.input_image_size == (64, 64)
