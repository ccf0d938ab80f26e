"""The wheel: what is in it is what RECORD says, it exports nothing but its module, needs nothing but libc
and libgcc_s, and its types are those that the module has. `wheel.py WHEEL`, by the Python that it is
installed in."""

import ast
import base64
import hashlib
import importlib.metadata
import inspect
import os
import subprocess
import sys
import zipfile

import spillring
from spillring import _spillring

path = sys.argv[1]
name = os.path.basename(path)
assert name.startswith(f"spillring-{spillring.__version__}-cp39-abi3-linux_"), name
with zipfile.ZipFile(path) as z:
    assert z.testzip() is None
    files = {i.filename: z.read(i) for i in z.infolist()}
info = f"spillring-{spillring.__version__}.dist-info"
lines = files[f"{info}/RECORD"].decode().splitlines()
assert {line.rsplit(",", 2)[0] for line in lines} == set(files) and len(lines) == len(files)
for line in lines:
    file, digest, length = line.rsplit(",", 2)
    if file != f"{info}/RECORD":
        kind, _, text = digest.partition("=")
        real = base64.urlsafe_b64encode(hashlib.new(kind, files[file]).digest()).rstrip(b"=").decode()
        assert (text, int(length)) == (real, len(files[file])), file
assert f"Tag: {name[:-4].split('-', 2)[2]}\n" in files[f"{info}/WHEEL"].decode()
assert {f"{info}/LICENSE-MIT", f"{info}/LICENSE-APACHE", "spillring/py.typed"} <= set(files)
about = importlib.metadata.metadata("spillring")
assert about["Version"] == spillring.__version__ and about["Requires-Python"] == ">=3.9"
assert "spillring.Handler" in files[f"{info}/METADATA"].decode()
assert os.path.dirname(spillring.__file__).startswith(sys.prefix), spillring.__file__


# The shared object, as binutils see it (they are no part of the venv's PATH).
def tool(*command):
    env = {**os.environ, "PATH": "/usr/local/bin:/usr/bin:/bin"}
    return subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


dynamic = tool("readelf", "-Wd", _spillring.__file__)
needed = {line.split("[")[1].rstrip("]\n") for line in dynamic.splitlines() if "(NEEDED)" in line}
assert needed <= {"libc.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}, needed
assert "NODELETE" in dynamic
symbols = [line.split() for line in tool("readelf", "-Ws", "--dyn-syms", _spillring.__file__).splitlines()]
symbols = [s for s in symbols if len(s) >= 8 and s[0].rstrip(":").isdigit()]
defined = {s[7] for s in symbols if s[6] != "UND" and s[4] in ("GLOBAL", "WEAK") and s[5] == "DEFAULT"}
assert defined == {"PyInit__spillring"}, defined
# Of CPython's functions only public ones, and those that the stable ABI has for its own macros.
used = {s[7].split("@")[0] for s in symbols if s[6] == "UND" and s[7].startswith(("Py", "_Py"))}
assert "PyList_Size" in used and len(used) > 30
private = {u for u in used if u.startswith("_Py") and not u.endswith("_SizeT")}
assert private <= {"_Py_Dealloc", "_Py_NoneStruct", "_Py_TrueStruct", "_Py_FalseStruct"}, private
size = os.path.getsize(_spillring.__file__)

# The stub says what the module has, no less and no more.
stub = ast.parse(files["spillring/_spillring.pyi"].decode())
special = {"__init__", "__iter__", "__next__", "__enter__", "__exit__"}
said = {}
for node in stub.body:
    if isinstance(node, ast.ClassDef):
        members = {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
        members |= {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
        said[node.name] = members
    elif isinstance(node, ast.FunctionDef):
        said[node.name] = None
there = {n for n in dir(_spillring) if not n.startswith("__")}
assert set(said) == there, set(said) ^ there
for cls in ("Emitter", "Reader"):
    real = set(vars(getattr(_spillring, cls))) - {"__doc__", "__module__", "__new__"}
    assert said[cls] == {m for m in real if m in special or not m.startswith("__")}, (cls, said[cls] ^ real)
for cls in ("Record", "Counters"):
    fields = [
        n.name for node in stub.body if isinstance(node, ast.ClassDef) and node.name == cls for n in node.body
    ]
    kind = getattr(_spillring, cls)
    assert kind.n_fields == len(fields) == kind.n_sequence_fields
    assert kind.__match_args__ == tuple(fields) if sys.version_info >= (3, 10) else True
# All that is public is documented, and annotated.
for n in spillring.__all__:
    x = getattr(spillring, n)
    assert inspect.getdoc(x), n
    if inspect.isfunction(x):
        assert set(x.__annotations__) == set(inspect.signature(x).parameters) | {"return"}, n
print(
    f"{name}: {len(files)} files, {os.path.getsize(path)} bytes; the extension has {size} bytes "
    f"and uses {len(used)} of CPython's functions"
)
