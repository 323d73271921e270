"""Blobs that layers share by `param { name: ... }`: they stay shared where the folds agree, else each gets its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .build import Array, Folded, batch_norm, bn, check, conv, data, he, layer, save, scale, scaled, stored, stored_v1

W, B = 'param { name: "w" }', 'param { name: "b" lr_mult: 2 }'
TWO = data() + data(name="other")
PAIR = TWO + conv("c1", "data", "x", body=f"{W} {B}") + conv("c2", "other", "y", body=f"{W} {B}")
WEIGHT, BIAS = he(4, 4, 1, 1), he(4, 1, seed=7)[:, 0]
BARE = PAIR.replace(f" {W} {B}", "")


def multiplier(blobs: list[Array]) -> Array:
    """What BVLC's BatchNorm multiplies by."""
    return np.asarray(1 / np.sqrt(blobs[1].astype(np.float64) / blobs[2] + 1e-5))


def equal(arrays: list[Array]) -> bool:
    return all(np.array_equal(array, arrays[0]) for array in arrays)


def weights(folded: Folded, *names: str) -> list[Array]:
    return [folded.blobs[name][0] for name in names]


# ------------------------------------------------------------------------------------------------------ convolutions


def test_the_same_fold_keeps_the_filter_shared(tmp_path: Path) -> None:
    net = PAIR + bn("n1", "x", "x") + bn("n2", "y", "y")
    entries = [stored("c1", WEIGHT, BIAS), stored("c2", WEIGHT, BIAS)]
    files = save(tmp_path, net, [*entries, stored("n1", *batch_norm(4)), stored("n2", *batch_norm(4))])
    folded = check(files)
    assert folded.text == PAIR
    one, two = weights(folded, "c1", "c2")
    assert np.array_equal(one, two)
    assert np.allclose(one, WEIGHT * multiplier(batch_norm(4))[:, None, None, None], rtol=1e-6)


def test_different_folds_take_the_filter_apart(tmp_path: Path) -> None:
    net = PAIR + bn("n1", "x", "x") + bn("n2", "y", "y")
    entries = [stored("c1", WEIGHT, BIAS), stored("c2", WEIGHT, BIAS)]
    files = save(tmp_path, net, [*entries, stored("n1", *batch_norm(4)), stored("n2", *batch_norm(4, 1))])
    folded = check(files)
    assert folded.text == PAIR.replace(W, "param { }").replace(B, "param { lr_mult: 2 }")
    for name, seed in (("c1", 0), ("c2", 1)):
        wanted = WEIGHT * multiplier(batch_norm(4, seed))[:, None, None, None]
        assert np.allclose(folded.blobs[name][0], wanted, rtol=1e-6)


def test_a_filter_is_taken_apart_where_only_one_is_folded(tmp_path: Path) -> None:
    folded = check(
        save(tmp_path, PAIR + bn("n1", "x", "x"), {"c1": [WEIGHT, BIAS], "c2": [WEIGHT, BIAS], "n1": batch_norm(4)})
    )
    assert '"w"' not in folded.text
    assert np.array_equal(weights(folded, "c2")[0], WEIGHT)


def test_only_the_owner_is_stored(tmp_path: Path) -> None:
    """Every layer with a blob of its own gets an entry, also one that had none."""
    net = PAIR + bn("n1", "x", "x") + bn("n2", "y", "y")
    folded = check(save(tmp_path, net, {"c2": [WEIGHT, BIAS], "n1": batch_norm(4), "n2": batch_norm(4, 1)}))
    assert [name for name, _ in folded.stored] == ["c2", "c1"]
    assert not equal(weights(folded, "c1", "c2"))


def test_the_owner_is_not_folded(tmp_path: Path) -> None:
    folded = check(save(tmp_path, PAIR + bn("n2", "y", "y"), {"c1": [WEIGHT, BIAS], "n2": batch_norm(4)}))
    assert np.array_equal(weights(folded, "c1")[0], WEIGHT)
    assert np.allclose(weights(folded, "c2")[0], WEIGHT * multiplier(batch_norm(4))[:, None, None, None], rtol=1e-6)


def test_the_last_entry_of_the_file_wins_for_all(tmp_path: Path) -> None:
    stale, net = he(4, 4, 1, 1, seed=9), PAIR + bn("n1", "x", "x")
    entries = [stored("c2", stale, BIAS), stored("c1", WEIGHT, BIAS), stored("n1", *batch_norm(4))]
    folded = check(save(tmp_path, net, entries))
    assert np.array_equal(weights(folded, "c2")[0], WEIGHT)
    folded = check(save(tmp_path, net, entries[::-1]))
    assert np.array_equal(weights(folded, "c2")[0], stale)


def test_a_bias_is_added_to_both_of_a_pair(tmp_path: Path) -> None:
    pair = "".join(
        conv(f"c{i}", bottom, top, more="bias_term: false", body=W)
        for i, bottom, top in ((1, "data", "x"), (2, "other", "y"))
    )
    net = TWO + pair + bn("n1", "x", "x") + bn("n2", "y", "y")
    folded = check(save(tmp_path, net, {"c1": [WEIGHT], "c2": [WEIGHT], "n1": batch_norm(4), "n2": batch_norm(4)}))
    assert folded.text == (TWO + pair).replace("false", "true")
    assert [len(folded.blobs[name]) for name in ("c1", "c2")] == [2, 2]


def test_folds_that_differ_in_the_shift_alone(tmp_path: Path) -> None:
    mean, variance, factor = batch_norm(4)
    net = PAIR + bn("n1", "x", "x") + bn("n2", "y", "y")
    check(save(tmp_path, net, {"c1": [WEIGHT, BIAS], "n1": [mean, variance, factor], "n2": [-mean, variance, factor]}))


def test_only_the_filter_is_shared(tmp_path: Path) -> None:
    net = (
        TWO
        + conv("c1", "data", "x", body=W)
        + conv("c2", "other", "y", body=W)
        + bn("n1", "x", "x")
        + bn("n2", "y", "y")
    )
    entries = {"c1": [WEIGHT, BIAS], "c2": [WEIGHT, -BIAS], "n1": batch_norm(4), "n2": batch_norm(4)}
    folded = check(save(tmp_path, net, entries))
    assert folded.text.count('"w"') == 2
    assert not np.array_equal(folded.blobs["c1"][1], folded.blobs["c2"][1])


def test_of_three_two_agree(tmp_path: Path) -> None:
    net = PAIR + data(name="third") + conv("c3", "third", "z", body=f"{W} {B}")
    net += bn("n1", "x", "x") + bn("n2", "y", "y") + bn("n3", "z", "z")
    stats = {"n1": batch_norm(4), "n2": batch_norm(4), "n3": batch_norm(4, 1)}
    folded = check(save(tmp_path, net, {"c1": [WEIGHT, BIAS], **stats}))
    assert equal(weights(folded, "c1", "c2"))
    assert not equal(weights(folded, "c1", "c3"))


def test_one_filter_in_layers_of_different_types(tmp_path: Path) -> None:
    """A filter (4, 4, 1, 1) that a deconvolution shares means another axis there."""
    more = f"convolution_param {{ num_output: 4 kernel_size: 1 }} {W}"
    net = (
        TWO
        + conv("c1", "data", "x", body=W)
        + layer("Deconvolution", "d", "other", "y", more)
        + bn("n1", "x", "x")
        + bn("n2", "y", "y")
    )
    entries = {"c1": [WEIGHT, BIAS], "d": [WEIGHT, BIAS], "n1": batch_norm(4), "n2": batch_norm(4)}
    folded = check(save(tmp_path, net, entries))
    assert '"w"' not in folded.text


def test_a_shift_reaches_a_shared_bias_through_each_filter(tmp_path: Path) -> None:
    shift = layer("Bias", "s", "data", "s")
    net = data() + shift + conv("c1", "s", "x", body=f"param {{ }} {B}") + conv("c2", "s", "y", body=f"param {{ }} {B}")
    entries = {"c1": [WEIGHT, BIAS], "c2": [2 * WEIGHT, BIAS], "s": [BIAS]}
    folded = check(save(tmp_path, net, entries))
    assert folded.types == ["Input", "Convolution", "Convolution"]
    assert '"b"' not in folded.text


def test_v1_names_stand_in_the_order_of_the_blobs(tmp_path: Path) -> None:
    """Blob 0 is taken apart and blob 1 stays shared: its name must stay the second one."""
    inputs = 'input: "data" input: "other" input_dim: 1 input_dim: 4 input_dim: 2 input_dim: 2 '
    inputs += "input_dim: 1 input_dim: 4 input_dim: 2 input_dim: 2\n"
    one = 'layers { name: "%s" type: CONVOLUTION bottom: "%s" top: "%s" %s '
    one += "convolution_param { num_output: 4 kernel_size: 1 } }\n"
    third = one % ("c3", "other", "z", 'param: "" param: "b"')
    net = inputs + one % ("c1", "data", "x", 'param: "w" param: "b"') + one % ("c2", "other", "y", 'param: "w"') + third
    net += 'layers { name: "p" type: POWER bottom: "y" top: "p" power_param { scale: 2 } }\n'
    entries = [stored_v1("c1", WEIGHT, BIAS), stored_v1("c2", WEIGHT, 2 * BIAS), stored_v1("c3", 2 * WEIGHT, BIAS)]
    folded = check(save(tmp_path, net, entries))
    assert 'param: "" param: "b"' in folded.text.splitlines()[1]
    assert np.array_equal(weights(folded, "c2")[0].reshape(WEIGHT.shape), 2 * WEIGHT)


# ------------------------------------------------------------------------------------------------- the normalisations

NORMAL = " ".join(f'param {{ name: "{name}" }}' for name in ("m", "v", "f"))


def test_a_batch_norm_that_stays_keeps_what_it_shares_with_one_that_goes(tmp_path: Path) -> None:
    net = (
        TWO + conv("c", "data", "x") + layer("BatchNorm", "n1", "x", "x", NORMAL)
        + layer("BatchNorm", "n2", "other", "y", f"{NORMAL} batch_norm_param {{ use_global_stats: false }}")
    )  # fmt: skip
    folded = check(save(tmp_path, net, {"c": [WEIGHT, BIAS], "n1": batch_norm(4)}))
    assert [name for name, _ in folded.stored] == ["c", "n2"]
    for found, wanted in zip(folded.blobs["n2"], batch_norm(4), strict=True):
        assert np.array_equal(found, wanted)


def test_a_batch_norm_that_becomes_a_scale_shares_no_more(tmp_path: Path) -> None:
    net = TWO + conv("c", "data", "x") + layer("BatchNorm", "n1", "x", "x", NORMAL)
    net += layer("TanH", "t", "other", "t") + layer("BatchNorm", "n2", "t", "y", NORMAL) + layer("TanH", "u", "y", "u")
    folded = check(save(tmp_path, net, {"c": [WEIGHT, BIAS], "n2": batch_norm(4)}))
    assert folded.types == ["Input", "Input", "Convolution", "TanH", "Scale", "TanH"]
    assert "param {" not in folded.text.splitlines()[4].replace("scale_param {", "")


def test_a_shared_batch_norm_folds_into_both(tmp_path: Path) -> None:
    net = BARE + layer("BatchNorm", "n1", "x", "x", NORMAL) + layer("BatchNorm", "n2", "y", "y", NORMAL)
    folded = check(save(tmp_path, net, {"c1": [WEIGHT, BIAS], "c2": [2 * WEIGHT, BIAS], "n2": batch_norm(4)}))
    assert folded.text == BARE


def test_scales_that_share_and_become_different(tmp_path: Path) -> None:
    more = 'param { name: "g" } param { name: "h" } scale_param { bias_term: true }'
    net = TWO + layer("TanH", "t1", "data", "t1") + layer("TanH", "t2", "other", "t2") + bn("n", "t1", "n")
    net += layer("Scale", "s1", "n", "s1", more) + layer("Scale", "s2", "t2", "s2", more)
    net += layer("TanH", "u1", "s1", "u1") + layer("TanH", "u2", "s2", "u2")
    folded = check(save(tmp_path, net, {"n": batch_norm(4), "s1": scale(4)}))
    assert [name for name, _ in folded.stored] == ["s1", "s2"]
    assert '"g"' not in folded.text
    for found, wanted in zip(folded.blobs["s2"], scale(4), strict=True):
        assert np.array_equal(found, wanted)


def test_siamese_net_that_shares_all(tmp_path: Path) -> None:
    more = 'param { name: "g" } param { name: "h" } scale_param { bias_term: true }'
    net = PAIR + layer("BatchNorm", "n1", "x", "x", NORMAL) + layer("BatchNorm", "n2", "y", "y", NORMAL)
    net += layer("Scale", "s1", "x", "x", more) + layer("Scale", "s2", "y", "y", more)
    folded = check(save(tmp_path, net, {"c1": [WEIGHT, BIAS], "n1": batch_norm(4), "s1": scale(4)}))
    assert folded.text == PAIR
    assert equal(weights(folded, "c1", "c2"))


def test_one_layer_of_two_tops_is_one_filter(tmp_path: Path) -> None:
    """A convolution may read several blobs; an affine behind one of them cannot go into the filter of both."""
    net = TWO + conv("c", "data other", "x y") + bn("n", "x", "x") + scaled("s", "y", "y")
    folded = check(save(tmp_path, net, {"c": [WEIGHT, BIAS], "n": batch_norm(4), "s": scale(4)}))
    assert folded.types == ["Input", "Input", "Convolution", "Scale", "Scale"]
