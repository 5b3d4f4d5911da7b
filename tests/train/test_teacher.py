from __future__ import annotations

import torch

from reidge.train.encoders import build_encoder
from reidge.train.teacher import Teacher, TeacherConfig


def test_parameters_follow_slowly_and_statistics_are_its_own() -> None:
    encoder = build_encoder("small", input_size=(64, 32))
    teacher = Teacher(encoder, TeacherConfig(momentum=0.9))
    before = [parameter.clone() for parameter in encoder.parameters()]
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(1.0)
        encoder.train()(torch.randn(8, 3, 64, 32))  # moves the encoder's statistics
    statistics = [buffer.clone() for buffer in teacher.encoder.buffers()]
    teacher.follow(encoder)
    for was, now in zip(before, teacher.encoder.parameters(), strict=True):
        torch.testing.assert_close(now, was + 0.1)
    assert all(torch.equal(*pair) for pair in zip(statistics, teacher.encoder.buffers(), strict=True))


def test_it_looks_in_training_mode_without_gradient() -> None:
    teacher = Teacher(build_encoder("small", input_size=(64, 32)).eval(), TeacherConfig())
    views = torch.randn(8, 3, 64, 32)
    embeddings = teacher.embed(views)
    assert not embeddings.requires_grad
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(8))
    # In training mode an image is seen relative to the others of its batch.
    assert not torch.allclose(embeddings[:4], teacher.embed(views[:4]), atol=1e-3)


def test_it_can_begin_anew_as_the_encoder_is() -> None:
    encoder, teacher = build_encoder("small"), Teacher(build_encoder("small"), TeacherConfig())
    teacher.copy(encoder)
    own = teacher.encoder.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in encoder.state_dict().items())
