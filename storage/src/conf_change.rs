//! The few protobuf fields of raft's membership changes that are worth showing (eraftpb.proto: `ConfChange`,
//! `ConfChangeV2`, `ConfChangeSingle`). A bounded reader of untrusted bytes: no recursion, no allocation by length.

/// One changed member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// 0 add, 1 remove, 2 add learner.
    pub kind: u64,
    /// The member.
    pub node: u64,
}

impl Change {
    /// The kind in words.
    #[must_use]
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            0 => "add",
            1 => "remove",
            2 => "add-learner",
            _ => "unknown",
        }
    }
}

/// A membership change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfChange<'a> {
    /// What changes.
    pub changes: Vec<Change>,
    /// The caller's data.
    pub context: &'a [u8],
}

enum Field<'a> {
    Number(u64, u64),
    Bytes(u64, &'a [u8]),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, bytes: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(bytes).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    /// The next field; `None` outside at the end, `None` inside for malformed bytes.
    fn next(&mut self) -> Option<Option<Field<'a>>> {
        if self.0.is_empty() {
            return None;
        }
        let mut read = || {
            let key = self.varint()?;
            Some(match key & 7 {
                0 => Field::Number(key >> 3, self.varint()?),
                1 => Field::Bytes(key >> 3, self.take(8)?),
                2 => {
                    let length = self.varint()?;
                    Field::Bytes(key >> 3, self.take(length)?)
                }
                5 => Field::Bytes(key >> 3, self.take(4)?),
                _ => return None,
            })
        };
        Some(read())
    }
}

/// A `ConfChange` that makes `node` a voter.
#[must_use]
pub fn encode_add(node: u64, context: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x18]; // field 3, a number; the kind is 0 and so left out
    put_varint(&mut bytes, node);
    bytes.push(0x22); // field 4, bytes
    put_varint(&mut bytes, context.len() as u64);
    bytes.extend_from_slice(context);
    bytes
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads a `ConfChange`; `None` for malformed bytes.
#[must_use]
pub fn decode_v1(bytes: &[u8]) -> Option<ConfChange<'_>> {
    let (mut change, mut context) = (Change::default(), &[][..]);
    let mut reader = Reader(bytes);
    while let Some(field) = reader.next() {
        match field? {
            Field::Number(2, kind) => change.kind = kind,
            Field::Number(3, node) => change.node = node,
            Field::Bytes(4, bytes) => context = bytes,
            _ => {}
        }
    }
    Some(ConfChange { changes: vec![change], context })
}

/// Reads a `ConfChangeV2`; `None` for malformed bytes.
#[must_use]
pub fn decode_v2(bytes: &[u8]) -> Option<ConfChange<'_>> {
    let mut found = ConfChange::default();
    let mut reader = Reader(bytes);
    while let Some(field) = reader.next() {
        match field? {
            Field::Bytes(2, single) => {
                let mut change = Change::default();
                let mut reader = Reader(single);
                while let Some(field) = reader.next() {
                    match field? {
                        Field::Number(1, kind) => change.kind = kind,
                        Field::Number(2, node) => change.node = node,
                        _ => {}
                    }
                }
                found.changes.push(change);
            }
            Field::Bytes(3, context) => found.context = context,
            _ => {}
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_fields_are_read_and_unknown_ones_skipped() {
        // id = 1, change_type = 2, node_id = 300, context = "ab", and an unknown fixed32.
        let bytes = [8, 1, 16, 2, 24, 0xac, 2, 34, 2, b'a', b'b', 0x2d, 1, 2, 3, 4];
        let change = decode_v1(&bytes).unwrap();
        assert_eq!(change, ConfChange { changes: vec![Change { kind: 2, node: 300 }], context: b"ab" });
        assert_eq!(change.changes[0].kind_name(), "add-learner");
        let bytes = [8, 1, 18, 4, 8, 1, 16, 7, 18, 2, 16, 9, 26, 1, b'c'];
        let change = decode_v2(&bytes).unwrap();
        assert_eq!(change.changes, [Change { kind: 1, node: 7 }, Change { kind: 0, node: 9 }]);
        assert_eq!(change.context, b"c");
    }

    #[test]
    fn an_added_voter_reads_back() {
        let node = u64::MAX - 300;
        let bytes = encode_add(node, &[7; 200]);
        assert_eq!(
            decode_v1(&bytes).unwrap(),
            ConfChange { changes: vec![Change { kind: 0, node }], context: &[7; 200] }
        );
    }

    #[test]
    fn garbage_is_none_and_every_cut_ends() {
        assert_eq!(decode_v1(&[0xff; 20]), None);
        assert_eq!(decode_v2(&[18, 200]), None);
        assert_eq!(decode_v1(&[3]), None, "groups are not used");
        let bytes = [8, 1, 16, 2, 24, 0xac, 2, 34, 2, b'a', b'b'];
        for cut in 0..bytes.len() {
            let _ = (decode_v1(&bytes[..cut]), decode_v2(&bytes[..cut]));
        }
    }
}
