"""Builds the archives that the corpus describes, damage included, without the code under test."""

import hashlib
import struct

import zstandard

BLOCK = 512
TYPES = {"file": "0", "dir": "5", "hardlink": "1", "symlink": "2", "char": "3", "fifo": "6"}


def latin(text):
    """The corpus writes bytes as characters."""
    return text.encode("latin-1")


def pad(data):
    return data + bytes(-len(data) % BLOCK)


def header(name, size=0, *, flag="0", mode=0o644, uid=1000, target=b"", size_field=None, minor=0):
    prefix = b""
    if len(name) > 100 and b"/" in name[:155]:
        cut = name[:155].rindex(b"/")
        prefix, name = name[:cut], name[cut + 1 :]
    raw = bytearray(
        struct.pack(
            "100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x",
            name,
            b"%07o\0" % mode,
            b"%07o\0" % uid,
            b"%07o\0" % uid,
            size_field or b"%011o\0" % size,
            b"%011o\0" % 1_700_000_000,
            b" " * 8,
            latin(flag),
            target,
            b"ustar\x0000",
            b"user",
            b"group",
            b"%07o\0" % 1,
            b"%07o\0" % minor,
            prefix,
        )
    )
    return checked(raw)


def checked(raw):
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def pax_records(pairs):
    out = b""
    for key, value in pairs.items():
        body = b" %s=%s\n" % (latin(key), latin(value))
        length = len(body) + 1
        while len(b"%d" % length) + len(body) != length:
            length += 1
        out += b"%d" % length + body
    return out


def extended(flag, data):
    """An entry that says something about the next one."""
    return header(b"PaxHeaders/x", len(data), flag=flag) + pad(data)


def long_name(name):
    return header(b"././@LongLink", len(name) + 1, flag="L") + pad(name + b"\0")


def named(name, data, **fields):
    """A member whose name may be longer than a header can hold."""
    if len(name) <= 100:
        return header(name, len(data), **fields) + pad(data)
    return long_name(name) + header(name[:100], len(data), **fields) + pad(data)


def member(recipe):
    """The bytes of one member of a recipe."""
    op, name = recipe["op"], latin(recipe.get("name", ""))
    data = latin(recipe.get("data", ""))
    match op:
        case "many":
            names = (recipe["name"].replace("{i}", str(i)) for i in range(recipe["count"]))
            return b"".join(header(latin(name)) for name in names)
        case "paxraw":
            return extended("x", latin(recipe["raw"])) + named(name, data)
        case "globalpax":
            return extended("g", pax_records(recipe["pax"]))
        case "gnulong":
            return long_name(name) + header(name[:100], len(data)) + pad(data)
        case "rawsize":
            return header(name, size_field=latin(recipe["size_field"])) + pad(data)
    fields = {
        "flag": TYPES.get(op) or recipe["typeflag"],
        "target": latin(recipe.get("target", "")),
    }
    fields |= {key: recipe[key] for key in ("mode", "uid", "minor") if key in recipe}
    before = extended("x", pax_records(recipe["pax"])) if "pax" in recipe else b""
    return before + named(name, data, **fields)


def tar(members, *, append="", second=False, no_eof=False, truncate=None, magic=None):
    """The archive of some members, with the damage that was asked for."""
    blocks = b"".join(map(member, members))
    if magic is not None:
        blocks = (
            checked(bytearray(blocks[:257] + latin(magic) + blocks[263:BLOCK])) + blocks[BLOCK:]
        )
    out = blocks if no_eof else blocks + bytes(2 * BLOCK)
    out += latin(append) + (out if second else b"")
    return out[:truncate]


def declare_window(frame, log):
    """The frame with another window in its header (RFC 8878 §3.1.1.1.2)."""
    assert not frame[4] & 0x20, "a single-segment frame has no window descriptor"
    return frame[:5] + bytes([(log - 10) << 3]) + frame[6:]


def compressed(data, *, window_log=None, skippable=False, append="", truncate=0, **damage):
    """One zstd frame around the data, with the damage that was asked for."""
    if "raw" in damage:
        return latin(damage["raw"])
    if window_log:
        parameters = zstandard.ZstdCompressionParameters(window_log=10, write_checksum=True)
        stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        return declare_window(stream.compress(data) + stream.flush(), window_log)
    frame = zstandard.ZstdCompressor(write_checksum=True).compress(data)
    if damage.get("flip_checksum"):
        frame = frame[:-1] + bytes([frame[-1] ^ 1])
    first = b"\x50\x2a\x4d\x18\x04\0\0\0skip" if skippable else b""
    return first + frame[: len(frame) - truncate] + latin(append)


def archive(recipe):
    """The tar and the bundle of one case's ``input``."""
    damage = {key.removeprefix("tar_"): value for key, value in recipe.get("tar", {}).items()}
    inner = tar(recipe["members"], **damage)
    return inner, compressed(inner, **recipe.get("zstd", {}))


def declared_hash(kind, inner, data):
    """The content hash that a case claims for its bundle."""
    right = hashlib.sha256(data).hexdigest()
    return {
        None: f"sha256:{right}",
        "flip-last-bit": f"sha256:{right[:-1]}{int(right[-1], 16) ^ 1:x}",
        "prefix8": f"sha256:{right[:8]}",
        "sha256-of-tar": f"sha256:{hashlib.sha256(inner).hexdigest()}",
        "sha1": f"sha1:{hashlib.sha1(data).hexdigest()}",
    }[kind]
