//! logs/sys: patterns and calendar times by the C library.
//!
//! Job: match a text against an extended regular expression; turn a local date and time into milliseconds. May touch: libc. Keeps:
//! every `unsafe` says why it holds.

use std::ffi::CString;
use std::fmt;

/// A compiled extended regular expression (POSIX).
pub struct Pattern {
    compiled: Box<libc::regex_t>,
    text: String,
}

impl Pattern {
    /// Without a capital letter, capitals make no difference, as with `journalctl --grep`.
    pub fn new(text: &str) -> Result<Self, String> {
        let pattern = CString::new(text).map_err(|_| "a pattern has no NUL".to_owned())?;
        let any_case = if text.chars().any(char::is_uppercase) { 0 } else { libc::REG_ICASE };
        // SAFETY: `regex_t` is plain data for which zeroes are valid; regcomp fills it in.
        let mut compiled: Box<libc::regex_t> = Box::new(unsafe { std::mem::zeroed() });
        let flags = libc::REG_EXTENDED | libc::REG_NOSUB | any_case;
        // SAFETY: both pointers are valid for the call; on success the box owns what regfree will free.
        let answer = unsafe { libc::regcomp(&raw mut *compiled, pattern.as_ptr(), flags) };
        if answer != 0 {
            return Err(format!("`{text}` is no extended regular expression"));
        }
        Ok(Self { compiled, text: text.to_owned() })
    }

    /// Whether some part of the text matches.
    pub fn matches(&self, text: &str) -> bool {
        let Ok(text) = CString::new(text.replace('\0', " ")) else { return false };
        // SAFETY: `compiled` was filled by regcomp; no place for submatches is given, and REG_NOSUB asks for none.
        unsafe { libc::regexec(&raw const *self.compiled, text.as_ptr(), 0, std::ptr::null_mut(), 0) == 0 }
    }
}

impl Drop for Pattern {
    fn drop(&mut self) {
        // SAFETY: filled by regcomp, freed once.
        unsafe { libc::regfree(&raw mut *self.compiled) }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.text)
    }
}

/// A date and time where this process is.
#[derive(Debug, Clone, Copy)]
pub struct Local {
    pub year: i32,
    /// 1 to 12.
    pub month: i32,
    pub day: i32,
    pub hour: i32,
    pub minute: i32,
    pub second: i32,
}

impl Local {
    /// Milliseconds since the epoch; `None` before it.
    pub fn ms(self) -> Option<u64> {
        // SAFETY: `tm` is plain data for which zeroes are valid; mktime reads and writes only it.
        let seconds = unsafe {
            let mut tm: libc::tm = std::mem::zeroed();
            (tm.tm_year, tm.tm_mon, tm.tm_mday) = (self.year - 1900, self.month - 1, self.day);
            (tm.tm_hour, tm.tm_min, tm.tm_sec) = (self.hour, self.minute, self.second);
            tm.tm_isdst = -1;
            libc::mktime(&raw mut tm)
        };
        u64::try_from(seconds).ok()?.checked_mul(1000)
    }

    /// Midnight of the day in which that moment lies.
    pub fn midnight(ms: u64) -> Self {
        let seconds = libc::time_t::try_from(ms / 1000).unwrap_or(libc::time_t::MAX);
        // SAFETY: `tm` is plain data for which zeroes are valid; localtime_r writes only it.
        let tm = unsafe {
            let mut tm: libc::tm = std::mem::zeroed();
            libc::localtime_r(&raw const seconds, &raw mut tm);
            tm
        };
        Self { year: tm.tm_year + 1900, month: tm.tm_mon + 1, day: tm.tm_mday, hour: 0, minute: 0, second: 0 }
    }
}
