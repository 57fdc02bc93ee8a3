//! process/handover: what a run is given beside its command.
//!
//! Job: bus token, configuration and credentials as sealed memory files (agents) or files only it can read (services).
//! May touch: credential files, memory files, the unit's `credentials/`. Keeps: no secret in argv or environment, none in a
//! log; a credential that others can read is refused.

use super::sys;
use loom_core::ids::{RunId, Secret};
use loom_core::unit::Unit;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The most credentials a unit can have.
pub const MOST_CREDENTIALS: usize = 32;
/// The largest credential.
const MAX_CREDENTIAL_BYTES: u64 = 64 * 1024;

/// A run's proof towards the bus.
#[derive(Debug)]
pub struct Token {
    /// 64 hex characters.
    pub text: Secret<String>,
    /// SHA-256 of that text, hex; this is what is stored.
    pub sha256: String,
}

/// Makes a fresh one.
pub fn token() -> Result<Token, String> {
    let mut random = [0u8; 32];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .map_err(|error| format!("cannot read /dev/urandom for the bus token: {error}"))?;
    let text = hex(&random);
    let sha256 = hex(&Sha256::digest(text.as_bytes()));
    Ok(Token { text: Secret::new(text), sha256 })
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A credential's name and what it holds.
pub type Credential = (String, Secret<Vec<u8>>);

/// Reads the unit's credentials; the first that cannot be had ends the start.
pub fn credentials(unit: &Unit) -> Result<Vec<Credential>, String> {
    let Some(exec) = &unit.exec else { return Ok(Vec::new()) };
    if exec.credentials.len() > MOST_CREDENTIALS {
        return Err(format!("{} has more than {MOST_CREDENTIALS} credentials", unit.id));
    }
    exec.credentials.iter().map(|(name, path)| Ok((name.clone(), Secret::new(credential(name, path)?)))).collect()
}

fn credential(name: &str, path: &str) -> Result<Vec<u8>, String> {
    let failed = |why: String| format!("cannot read credential `{name}` from {path}: {why}");
    // Non-blocking, so that a fifo in its place does not hold up everything.
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| failed(error.to_string()))?;
    let metadata = file.metadata().map_err(|error| failed(error.to_string()))?;
    if !metadata.is_file() {
        return Err(failed("it is no regular file".into()));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(failed(format!(
            "others can read it (mode {:04o}); run `chmod 600 {path}`",
            metadata.mode() & 0o7777
        )));
    }
    let owner = metadata.uid();
    if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        return Err(failed(format!("it belongs to uid {owner}, neither to root nor to loomd's user")));
    }
    let mut content = Vec::new();
    file.take(MAX_CREDENTIAL_BYTES + 1).read_to_end(&mut content).map_err(|error| failed(error.to_string()))?;
    if content.len() as u64 > MAX_CREDENTIAL_BYTES {
        return Err(failed(format!("it is larger than {MAX_CREDENTIAL_BYTES} bytes")));
    }
    Ok(content)
}

/// An agent's configuration; credentials by the descriptor that holds them, from `first_credential` on.
pub fn config(unit: &Unit, run: RunId, credentials: &[Credential], first_credential: i32) -> serde_json::Value {
    let numbers: BTreeMap<&str, i32> =
        credentials.iter().map(|(name, _)| name.as_str()).zip(first_credential..).collect();
    let texts = |rules: &[loom_core::unit::ToolRule]| rules.iter().map(|rule| rule.text.clone()).collect::<Vec<_>>();
    serde_json::json!({
        "version": 1,
        "unit": unit.id,
        "run": run,
        "llm": unit.llm,
        "bus": unit.bus,
        "tools": {
            "allow": texts(&unit.tools.allow),
            "deny": texts(&unit.tools.deny),
            "workspace": unit.tools.workspace,
        },
        "credentials": numbers,
    })
}

/// A sealed memory file with `content`.
pub fn memory(name: &std::ffi::CStr, content: &[u8]) -> Result<OwnedFd, String> {
    sys::sealed_memory(name, content)
        .map_err(|error| format!("cannot make the memory file {}: {error}", name.to_string_lossy()))
}

/// Writes a service's credentials, each 0400, in a directory 0700 made anew.
pub fn write_credentials(directory: &Path, credentials: &[(String, Secret<Vec<u8>>)]) -> Result<(), String> {
    let failed =
        |path: &Path, error: std::io::Error| format!("cannot write credentials to {}: {error}", path.display());
    remove_credentials(directory).map_err(|error| failed(directory, error))?;
    fs::DirBuilder::new().mode(0o700).create(directory).map_err(|error| failed(directory, error))?;
    for (name, content) in credentials {
        let path = directory.join(name);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o400);
        options
            .open(&path)
            .and_then(|mut file| file.write_all(content.reveal()))
            .map_err(|error| failed(&path, error))?;
    }
    Ok(())
}

/// Takes them away again.
pub fn remove_credentials(directory: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_credential_that_others_can_read_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        fs::write(&path, "secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let refusal = credential("key", path.to_str().unwrap()).unwrap_err();
        assert!(refusal.contains("others can read it (mode 0644)"), "{refusal}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(credential("key", path.to_str().unwrap()).unwrap(), b"secret");
        assert!(credential("key", "/no/such/key").unwrap_err().contains("/no/such/key"));
    }

    #[test]
    fn a_token_is_64_hex_characters_and_never_printed() {
        let token = token().unwrap();
        assert_eq!(token.text.reveal().len(), 64);
        assert_eq!(token.sha256.len(), 64);
        assert!(!format!("{token:?}").contains(token.text.reveal()));
    }
}
