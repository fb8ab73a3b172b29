"""Python's protobuf reads our checkpoints knowing only checkpoint.proto; Python's safetensors reads what ckpt-inspect
exports, and what it writes is imported. The programs are only ever run, never linked."""

import argparse
import hashlib
import itertools
import json
import math
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

import numpy
import safetensors.numpy
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# Nothing is evaluated: of the model only names and shapes matter here.
MODEL = {"num_layers": "2", "model_dim": "64", "num_heads": "4", "num_kv_heads": "2", "xsa_last_n": "1"}
NUMPY_TYPES = {1: "<f4", 2: "<f2", 4: "<i1", 5: "<i4", 6: "<i8"}


def model_tensors():
    random = numpy.random.default_rng(7)
    # Columns whose deviations rise, and rows of which every other has outliers, and so a larger scale and smaller codes: an artifact
    # has the one column by column, and the other by falling scales.
    by_column = random.standard_normal((192, 64)) * numpy.geomspace(0.1, 1, 64)
    by_row = random.standard_normal((160, 64))
    by_row[::2, :8] *= 4
    return {
        "blocks.0.mlp.fc.weight": by_column.astype("f4"),
        "blocks.0.attn.c_q.weight": by_row.astype("f4"),
        "bigram.embed.weight": (random.standard_normal((90, 64)) * 1e-3).astype("f4"),
        "bigram.scale": numpy.array(0.05, "f4"),
        "half": numpy.array([1, -2.5, 65504, 6e-8], "f2"),
        "empty": numpy.zeros((0, 3), "f4"),
    }


def identity_of(checkpoint):
    """The definition of docs/formats.md."""

    def number(value):
        return struct.pack("<q", value)

    def text(value):
        value = value if isinstance(value, bytes) else value.encode()
        return number(len(value)) + value

    settings = sorted((s.name, s.value) for s in checkpoint.header.setting)
    digest = hashlib.sha256(number(checkpoint.header.kind) + number(len(settings)))
    for name, value in settings:
        digest.update(text(name) + text(value))
    digest.update(number(len(checkpoint.tensor)))
    for tensor in sorted(checkpoint.tensor, key=lambda t: t.name):
        own = hashlib.sha256(text(tensor.name) + number(tensor.dtype) + number(len(tensor.shape)))
        for size in tensor.shape:
            own.update(number(size))
        q = tensor.quantisation
        own.update(number(tensor.HasField("quantisation") + (q.column_scale != "")))
        if tensor.HasField("quantisation"):
            own.update(text(q.grid) + number(q.code_min) + number(q.code_max) + text(q.scale))
            if q.column_scale:
                own.update(text(q.column_scale))
        own.update(text(tensor.data))
        digest.update(own.digest())
    return digest.hexdigest()


class Python(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.folder.name)
        schema = cls.root / "checkpoint.desc"
        subprocess.run(
            [ARGS.protoc, f"--descriptor_set_out={schema}", "-I", ARGS.proto.parent, ARGS.proto], check=True)
        pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(schema.read_bytes()).file:
            pool.Add(file)
        cls.Checkpoint = message_factory.GetMessageClass(pool.FindMessageTypeByName("fairway.pb.Checkpoint"))

        cls.tensors = model_tensors()
        source = cls.root / "source.safetensors"
        safetensors.numpy.save_file(cls.tensors, source, {f"setting.{k}": v for k, v in MODEL.items()} | {"by": "numpy"})
        cls.run_tool("ckpt-inspect", "--import", source, cls.root / "weights.ckpt")
        cls.run_tool("gptq-lite", "--keep-max-numel", "100", cls.root / "weights.ckpt", cls.root / "quantised.ckpt")
        cls.run_tool("pack-zstd", "--coder", "zstd", cls.root / "quantised.ckpt", cls.root / "model.bin.zst")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @classmethod
    def run_tool(cls, name, *arguments, status=0):
        done = subprocess.run([ARGS.bin / name, *arguments], capture_output=True, text=True, env={})
        assert done.returncode == status, f"{name}: status {done.returncode}: {done.stderr}"
        return done

    def parse(self, name):
        raw = (self.root / name).read_bytes()
        return raw, self.Checkpoint.FromString(raw)

    def test_protobuf_reads_a_checkpoint_of_weights(self):
        raw, checkpoint = self.parse("weights.ckpt")
        self.assertEqual(raw[:9], b"\tfairway\n")
        self.assertEqual(checkpoint.header.format_version, 4)
        self.assertEqual(checkpoint.header.kind, 2)
        settings = {s.name: s.value for s in checkpoint.header.setting}
        self.assertEqual({k: settings[k] for k in MODEL}, MODEL)
        self.assertEqual({t.name for t in checkpoint.tensor}, set(self.tensors))
        for tensor in checkpoint.tensor:
            expected = self.tensors[tensor.name]
            got = numpy.frombuffer(tensor.data, NUMPY_TYPES[tensor.dtype]).reshape(list(tensor.shape))
            numpy.testing.assert_array_equal(got, expected, tensor.name, strict=True)

    def test_index_and_footer_say_where_things_are(self):
        for name in ("weights.ckpt", "quantised.ckpt"):
            raw, checkpoint = self.parse(name)
            footer = checkpoint.footer
            self.assertEqual(footer.footer_offset, struct.unpack("<Q", raw[-8:])[0])
            self.assertEqual(raw[footer.footer_offset], 15 << 3 | 2)
            self.assertEqual([e.name for e in footer.index], [t.name for t in checkpoint.tensor])
            for entry, tensor in zip(footer.index, checkpoint.tensor):
                self.assertEqual(entry.offset % 64, 0)
                self.assertEqual(raw[entry.offset:entry.offset + entry.length], tensor.data)
            self.assertTrue(all(not any(padding) for padding in checkpoint.padding))
            self.assertEqual(footer.identity, identity_of(checkpoint))
        self.assertEqual(footer.lineage.tool, "gptq-lite")
        parent = footer.lineage.input[0].lineage
        self.assertEqual(parent.tool, "ckpt-inspect")
        self.assertEqual(parent.input[0].identity, hashlib.sha256((self.root / "source.safetensors").read_bytes()).hexdigest())

    def test_codes_and_scales_are_the_exported_weights(self):
        _, checkpoint = self.parse("quantised.ckpt")
        stored = {t.name: t for t in checkpoint.tensor}
        codes = [t for t in checkpoint.tensor if t.HasField("quantisation")]
        self.assertEqual({t.quantisation.grid for t in codes}, {"int5", "int6", "int8"})
        self.run_tool("ckpt-inspect", self.root / "model.bin.zst", "--export", self.root / "out.safetensors")
        exported = safetensors.numpy.load_file(self.root / "out.safetensors")
        self.assertEqual(set(exported), set(self.tensors))
        for tensor in codes:
            scale = numpy.frombuffer(stored[tensor.quantisation.scale].data, "<f2").astype("f4")
            code = numpy.frombuffer(tensor.data, "<i1").reshape(list(tensor.shape))
            self.assertGreaterEqual(code.min(), tensor.quantisation.code_min)
            self.assertLessEqual(code.max(), tensor.quantisation.code_max)
            numpy.testing.assert_array_equal(exported[tensor.name.removesuffix(".q")], code * scale[:, None], strict=True)

    def test_protobuf_reads_an_artifact(self):
        stored = self.parse("quantised.ckpt")[1]
        raw = subprocess.run(["zstd", "-dcq", self.root / "model.bin.zst"], capture_output=True, check=True).stdout
        packed = self.Checkpoint.FromString(raw)
        self.assertEqual(packed.header.format_version, 5)
        self.assertFalse(packed.HasField("footer") or packed.padding or any(t.HasField("data") for t in packed.tensor))
        orders = {t.name: t.order for t in packed.tensor}
        self.assertEqual((orders["blocks.0.attn.c_q.weight.q"], orders["blocks.0.mlp.fc.weight.q"], orders["half"]), (1, 2, 0))
        self.assertEqual(identity_of(self.unpacked(packed)), stored.footer.identity)

    @staticmethod
    def unpacked(packed):
        """The same checkpoint with each tensor's data in its place."""
        position, tensors = 0, list(packed.tensor)
        while tensors:
            run = list(itertools.takewhile(lambda t: t.dtype == tensors[0].dtype, tensors))
            tensors = tensors[len(run) :]
            size = numpy.dtype(NUMPY_TYPES[run[0].dtype]).itemsize
            planes = [numpy.empty((size, math.prod(t.shape)), "u1") for t in run]
            for byte in reversed(range(size)):
                for plane in planes:
                    plane[byte] = numpy.frombuffer(packed.packed, "u1", plane.shape[1], position)
                    position += plane.shape[1]
            for tensor, plane in zip(run, planes):
                tensor.data = plane.T.tobytes()
        assert position == len(packed.packed)
        stored = {t.name: t for t in packed.tensor}
        for tensor in packed.tensor:
            if tensor.order == 0:
                continue
            rows, columns = tensor.shape
            by = {1: tensor.quantisation.scale, 2: tensor.quantisation.column_scale}[tensor.order]
            lines = rows if tensor.order == 1 else columns
            scales = numpy.frombuffer(stored[by].data, "<u2").astype(int) if by else numpy.zeros(lines, int)
            falling = numpy.argsort(-scales, kind="stable")
            codes = numpy.empty((lines, rows * columns // lines), "i1")
            codes[falling] = numpy.frombuffer(tensor.data, "i1").reshape(codes.shape)
            tensor.data = (codes if tensor.order == 1 else codes.T).tobytes()
        return packed

    def test_export_and_import_give_the_same_identity(self):
        _, checkpoint = self.parse("weights.ckpt")
        self.run_tool("ckpt-inspect", self.root / "weights.ckpt", "--export", self.root / "a.safetensors")
        with safetensors.safe_open(self.root / "a.safetensors", "numpy") as file:
            metadata = file.metadata()
        self.assertEqual(metadata["kind"], "weights")
        self.assertEqual(metadata["identity"], checkpoint.footer.identity)
        # Python writes tensors and metadata in an order of its own.
        tensors = safetensors.numpy.load_file(self.root / "a.safetensors")
        safetensors.numpy.save_file(tensors, self.root / "b.safetensors", metadata)
        self.run_tool("ckpt-inspect", "--import", self.root / "b.safetensors", self.root / "b.ckpt")
        self.assertEqual(self.parse("b.ckpt")[1].footer.identity, checkpoint.footer.identity)

    def test_torch_loads_bfloat16(self):
        import safetensors.torch
        import torch

        bits = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16)
        tensors = {"odd": torch.tensor([1.5], dtype=torch.float16), "all": bits.view(torch.bfloat16)}
        safetensors.torch.save_file(tensors, self.root / "torch.safetensors")
        # It does not say of what model it is.
        done = self.run_tool("ckpt-inspect", "--import", self.root / "torch.safetensors", self.root / "torch.ckpt", status=4)
        self.assertIn("torch.safetensors: does not say of what model it is", done.stderr)
        self.run_tool("ckpt-inspect", "--import", "--num-layers", "11", self.root / "torch.safetensors", self.root / "torch.ckpt")
        self.run_tool("ckpt-inspect", self.root / "torch.ckpt", "--export", self.root / "back.safetensors")
        back = safetensors.torch.load_file(self.root / "back.safetensors")
        self.assertTrue(torch.equal(back["all"].view(torch.int16), bits))
        self.assertEqual(back["odd"].item(), 1.5)
        described = json.loads(self.run_tool("ckpt-inspect", "--json", self.root / "torch.ckpt").stdout)
        table = {t["name"]: t for t in described["tensors"]}
        values = tensors["all"].float()
        finite = values[values.isfinite()]
        self.assertEqual(numpy.float32(table["all"]["max"]), numpy.float32(finite.max().item()))
        self.assertEqual(numpy.float32(table["all"]["min"]), numpy.float32(finite.min().item()))
        self.assertEqual(table["all"]["not_finite"], len(values) - len(finite))

    def test_inspection_agrees_with_numpy(self):
        _, checkpoint = self.parse("quantised.ckpt")
        with open(self.root / "quantised.ckpt") as file:
            piped = subprocess.run([ARGS.bin / "ckpt-inspect", "--json", "-"], stdin=file, capture_output=True, check=True, env={})
        described = json.loads(piped.stdout)
        table = {t["name"]: t for t in described["tensors"]}
        self.assertEqual(set(table), {t.name for t in checkpoint.tensor})
        for tensor in checkpoint.tensor:
            line = table[tensor.name]
            values = numpy.frombuffer(tensor.data, NUMPY_TYPES[tensor.dtype])
            self.assertEqual((line["bytes"], line["elements"], line["shape"]), (len(tensor.data), values.size, list(tensor.shape)))
            self.assertEqual((line["min"], line["max"]), (values.min(), values.max()) if values.size else (None, None))
            self.assertEqual("entropy_bits" in line, tensor.HasField("quantisation"))
            if tensor.HasField("quantisation"):
                share = numpy.unique(values, return_counts=True)[1] / values.size
                self.assertAlmostEqual(line["entropy_bits"], -(share * numpy.log2(share)).sum(), 9)
        self.assertEqual(described["identity"], checkpoint.footer.identity)
        self.assertEqual(described["counters"], {c.name: c.number for c in checkpoint.footer.counter})

    def test_artifact_shows_the_lineage_beside_it(self):
        path = self.root / "model.bin.zst"
        described = json.loads(self.run_tool("ckpt-inspect", "--json", "--verify", path).stdout)
        self.assertTrue(described["verified"])
        self.assertEqual(described["kind"], "quantised")
        self.assertEqual(described["identity"], self.parse("quantised.ckpt")[1].footer.identity)
        tools, lineage = [], described["lineage"]
        while lineage:
            tools.append(lineage["tool"])
            lineage = lineage["inputs"][-1]["lineage"]
        self.assertEqual(tools, ["pack-zstd", "gptq-lite", "ckpt-inspect"])
        text = self.run_tool("ckpt-inspect", path).stdout
        source = hashlib.sha256((self.root / "source.safetensors").read_bytes()).hexdigest()
        self.assertIn(f"from safetensors file {source}\n", text)
        # Beside another artifact it would be wrong.
        (self.root / "other.zst").write_bytes((self.root / "model.bin.zst").read_bytes())
        self.assertIsNone(json.loads(self.run_tool("ckpt-inspect", "--json", self.root / "other.zst").stdout)["lineage"])
        self.run_tool("gptq-lite", "--keep-max-numel", "1000", self.root / "weights.ckpt", self.root / "second.ckpt")
        self.run_tool("pack-zstd", "--coder", "zstd", self.root / "second.ckpt", self.root / "second.zst")
        (self.root / "second.zst.lineage").rename(self.root / "other.zst.lineage")
        done = self.run_tool("ckpt-inspect", self.root / "other.zst", status=4)
        self.assertIn(f"other.zst.lineage: is of another artifact than {self.root}/other.zst\n", done.stderr)

    def test_import_refuses_what_are_no_weights(self):
        safetensors.numpy.save_file({"ids": numpy.arange(3)}, self.root / "ids.safetensors")
        path = self.root / "ids.safetensors"
        done = self.run_tool("ckpt-inspect", "--import", path, self.root / "ids.ckpt", status=4)
        self.assertIn(f"ckpt-inspect: {path}: tensor ids is of dtype int64; weights are floating point\n", done.stderr)
        self.assertFalse((self.root / "ids.ckpt").exists())
        safetensors.numpy.save_file({"w": numpy.ones(3)}, path)
        done = self.run_tool("ckpt-inspect", "--import", path, self.root / "ids.ckpt", status=4)
        self.assertIn(f'{path}: tensor w is of dtype "F64", which this program does not know\n', done.stderr)
        safetensors.numpy.save_file({"w": numpy.ones(3, "f4")}, path, {"setting.nonsense": "1"})
        done = self.run_tool("ckpt-inspect", "--import", path, self.root / "ids.ckpt", status=4)
        self.assertIn(f"{path}: unknown setting 'nonsense'\n", done.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for option in ("--bin", "--protoc", "--proto"):
        parser.add_argument(option, type=pathlib.Path, required=True)
    ARGS, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest])
