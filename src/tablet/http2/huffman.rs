//! HPACK's Huffman code (RFC 7541, appendix B).
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, and the next longer ones follow
//! those. So the lengths alone say everything.

/// The symbol that ends a text and must not occur in one.
const END: usize = 256;
const SYMBOLS: usize = 257;
const BITS_MAX: usize = 30;

/// Length of each symbol's code in bits.
#[rustfmt::skip]
const BITS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// The codes of one length.
#[derive(Clone, Copy)]
struct Row {
    /// The first of them.
    first: u32,
    /// How many there are.
    count: u32,
    /// Where their symbols begin in [`Table::symbols`].
    offset: u32,
}

struct Table {
    rows: [Row; BITS_MAX + 1],
    /// Symbols in the order of their codes.
    symbols: [u16; SYMBOLS],
}

static TABLE: Table = table();

const fn table() -> Table {
    let mut rows = [Row { first: 0, count: 0, offset: 0 }; BITS_MAX + 1];
    let mut symbols = [0; SYMBOLS];
    let (mut code, mut place, mut bits) = (0, 0, 1);
    while bits <= BITS_MAX {
        code <<= 1;
        rows[bits] = Row { first: code, count: 0, offset: place as u32 };
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if BITS[symbol] as usize == bits {
                symbols[place] = symbol as u16;
                rows[bits].count += 1;
                place += 1;
                code += 1;
            }
            symbol += 1;
        }
        bits += 1;
    }
    Table { rows, symbols }
}

/// The text; `None` where it is no text in this code: the end symbol inside, or a padding that is none.
pub(super) fn decode(encoded: &[u8]) -> Option<Vec<u8>> {
    // The shortest code has five bits.
    let mut text = Vec::with_capacity(encoded.len() * 8 / 5);
    let (mut code, mut bits, mut ones) = (0u32, 0usize, true);
    for byte in encoded {
        for shift in (0..8).rev() {
            let bit = u32::from(byte >> shift & 1);
            ones &= bit == 1;
            code = code << 1 | bit;
            bits += 1;
            let row = TABLE.rows.get(bits)?;
            let index = code.wrapping_sub(row.first);
            if code >= row.first && index < row.count {
                let symbol = TABLE.symbols[(row.offset + index) as usize];
                if usize::from(symbol) == END {
                    return None;
                }
                text.push(symbol as u8);
                (code, bits, ones) = (0, 0, true);
            }
        }
    }
    // The beginning of the end symbol, which is all ones, fills the last byte.
    (bits < 8 && ones).then_some(text)
}
