//! crc: CRC-32C, for values and marks. Our values are short, so a table of one byte is enough. May touch: nothing.

const TABLE: [u32; 256] = {
    let (mut table, mut n) = ([0; 256], 0);
    while n < 256 {
        let (mut crc, mut bit) = (n as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[n] = crc;
        n += 1;
    }
    table
};

/// The Castagnoli checksum of the parts, one after another.
pub fn crc32c(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().copied().flatten();
    !bytes.fold(u32::MAX, |crc, byte| (crc >> 8) ^ TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize])
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_value_of_the_standard_holds() {
        assert_eq!(super::crc32c(&[b"123456789"]), 0xe306_9283);
        assert_eq!(super::crc32c(&[b"1234", b"56789"]), 0xe306_9283);
        assert_eq!(super::crc32c(&[]), 0);
    }
}
