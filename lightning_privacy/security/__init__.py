"""Keys, and authenticated encryption of files, streams, tables, arrays and records. Plain: never imports Lightning."""

from __future__ import annotations

from lightning_privacy.security.arrays import read_arrays, write_arrays
from lightning_privacy.security.dataset import EncryptedDataset
from lightning_privacy.security.errors import (
    EncryptionError,
    KeyExpiredError,
    NewerFormatError,
    NotEncryptedError,
    TamperedError,
    WrongKeyError,
)
from lightning_privacy.security.files import decrypt_file, decrypt_stream, encrypt_file, encrypt_stream, rotate
from lightning_privacy.security.header import Content
from lightning_privacy.security.key_ring import KeyLike, KeyRing, as_key_ring
from lightning_privacy.security.keys import Key
from lightning_privacy.security.parquet import read_parquet, write_parquet
from lightning_privacy.security.reader import EncryptedReader
from lightning_privacy.security.records import EncryptedRecords, write_records
from lightning_privacy.security.tables import read_table, write_table
from lightning_privacy.security.writer import EncryptedWriter

__all__ = [
    "Content",
    "EncryptedDataset",
    "EncryptedReader",
    "EncryptedRecords",
    "EncryptedWriter",
    "EncryptionError",
    "Key",
    "KeyExpiredError",
    "KeyLike",
    "KeyRing",
    "NewerFormatError",
    "NotEncryptedError",
    "TamperedError",
    "WrongKeyError",
    "as_key_ring",
    "decrypt_file",
    "decrypt_stream",
    "encrypt_file",
    "encrypt_stream",
    "read_arrays",
    "read_parquet",
    "read_table",
    "rotate",
    "write_arrays",
    "write_parquet",
    "write_records",
    "write_table",
]
