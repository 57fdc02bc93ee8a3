//! read: `fs:read`.
//!
//! Job: a part of a file as text or base64, and the hash of the whole. May touch: `beneath`.

use crate::base64;
use crate::beneath::{attempt, open_file};
use crate::place::{Reach, Want};
use loom_core::tools::{Encoding, ReadArgs, Reason, ToolError};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// Files larger than this are read without being hashed as a whole.
const HASH_MAX_BYTES: u64 = 64 * 1024 * 1024;

pub fn read(reach: &Reach<'_>, args: &ReadArgs) -> Result<Value, ToolError> {
    attempt(reach, &args.path, Want::Read, |found| {
        let (file, stat) = open_file(reach, found, &args.path, Want::Read)?;
        let file = File::from(file);
        let total = u64::try_from(stat.st_size).unwrap_or(0);
        let sha256 = match total <= HASH_MAX_BYTES {
            true => Some(hash(&file).map_err(|error| fault(&args.path, &error))?),
            false => None,
        };
        let bytes = part(&file, args.offset, args.limit_bytes).map_err(|error| fault(&args.path, &error))?;
        let bytes = match args.encoding {
            Encoding::Base64 => &bytes[..],
            Encoding::Utf8 => text(&bytes, args)?,
        };
        let end = args.offset.saturating_add(bytes.len() as u64);
        Ok(json!({
            "content": match args.encoding {
                Encoding::Base64 => base64::encode(bytes),
                Encoding::Utf8 => String::from_utf8_lossy(bytes).into_owned(),
            },
            "bytes": bytes.len(),
            "total": total,
            "eof": end >= total,
            "sha256": sha256,
        }))
    })
}

fn part(file: &File, offset: u64, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(limit_bytes).expect("at most READ_MAX_BYTES")];
    let mut have = 0;
    while have < bytes.len() {
        match file.read_at(&mut bytes[have..], offset + have as u64) {
            Ok(0) => break,
            Ok(more) => have += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(have);
    Ok(bytes)
}

/// Cuts a character that the limit split; anything else that is not UTF-8 is no text.
fn text<'b>(bytes: &'b [u8], args: &ReadArgs) -> Result<&'b [u8], ToolError> {
    let no_text = |at: u64| {
        let what = format!("`{}` is not UTF-8 text at byte {at}; ask again with encoding=base64", args.path);
        Err(ToolError::of_tool(Reason::NotText, what))
    };
    match std::str::from_utf8(bytes) {
        Ok(_) => Ok(bytes),
        // Only the end is incomplete, and it is the limit that cut it.
        Err(error)
            if error.error_len().is_none() && error.valid_up_to() > 0 && bytes.len() as u64 == args.limit_bytes =>
        {
            Ok(&bytes[..error.valid_up_to()])
        }
        Err(error) => no_text(args.offset + error.valid_up_to() as u64),
    }
}

/// Hashes from where the file stands to its end.
pub fn hash(file: &File) -> io::Result<String> {
    let (mut hasher, mut buffer, mut file) = (Sha256::new(), vec![0; 64 * 1024], file);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hasher.finalize())),
            Ok(more) => hasher.update(&buffer[..more]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        text.push(char::from_digit(u32::from(byte >> 4), 16).expect("a nibble"));
        text.push(char::from_digit(u32::from(byte & 15), 16).expect("a nibble"));
        text
    })
}

fn fault(path: &str, error: &io::Error) -> ToolError {
    ToolError::of_tool(Reason::Io, format!("cannot read `{path}`: {error}"))
}
