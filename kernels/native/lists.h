/* Lists of ones from bits: of every row, of every column. Nothing here knows a layer.
 *
 * A list grows without a branch that depends on the bits, where the CPU level can pick numbers out of a vector: 2 % of scoring,
 * 1 % of a step.
 */

/* list[..] = first + j for every bit j of the word, ascending; returns how many. */
static ALWAYS_INLINE int64_t list_word(uint64_t word, int64_t first, int32_t *list)
{
    int64_t n = 0;
#if VECTOR_BYTES == 64
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (; word; word >>= 16, first += 16) {
        const __mmask16 set = (__mmask16)word;
        const int m = __builtin_popcount(set);
        const __m512i picked = _mm512_maskz_compress_epi32(set, _mm512_add_epi32(_mm512_set1_epi32((int32_t)first), lanes));
        _mm512_mask_storeu_epi32(list + n, (__mmask16)((1u << m) - 1), picked);
        n += m;
    }
#else
    for (; word; word &= word - 1) list[n++] = (int32_t)(first + __builtin_ctzll(word));
#endif
    return n;
}

/* index[i * n_columns ..] = the columns where row i is 1, ascending; count[i]: how many. */
static void list_ones(const uint64_t *bits, int64_t words, int64_t n, int64_t n_columns, int32_t *count, int32_t *index)
{
    for (int64_t i = 0; i < n; i++) {
        int32_t *ones = index + i * n_columns;
        for (int64_t w = 0; w < words; w++) ones += list_word(bits[i * words + w], 64 * w, ones);
        count[i] = (int32_t)(ones - (index + i * n_columns));
    }
}

/* Bit j of word i becomes bit i of word j (H. S. Warren, Hacker's Delight, 7-3). */
static void transpose_bits(uint64_t a[64])
{
    uint64_t low = 0xffffffff;
    for (int j = 32; j; j >>= 1, low ^= low << j)
        for (int k = 0; k < 64; k = ((k | j) + 1) & ~j) {
            const uint64_t differ = (a[k] >> j ^ a[k | j]) & low;
            a[k] ^= differ << j;
            a[k | j] ^= differ;
        }
}

/* index[p * ld ..] = the rows where column p is 1, ascending, for the columns of words [word_start, word_stop). */
static void list_rows(const uint64_t *bits, int64_t words, int64_t n, int64_t n_columns, int64_t word_start, int64_t word_stop,
                      int64_t ld, int32_t *count, int32_t *index)
{
    for (int64_t w = word_start; w < word_stop; w++) {
        int32_t *counts = count + 64 * w, *lists = index + 64 * w * ld;
        const int64_t columns = n_columns - 64 * w < 64 ? n_columns - 64 * w : 64;
        for (int64_t j = 0; j < columns; j++) counts[j] = 0;
        for (int64_t i0 = 0; i0 < n; i0 += 64) {
            uint64_t block[64];
            for (int64_t i = i0; i < i0 + 64; i++) block[i - i0] = i < n ? bits[i * words + w] : 0;
            transpose_bits(block);
            for (int64_t j = 0; j < columns; j++) counts[j] += (int32_t)list_word(block[j], i0, lists + j * ld + counts[j]);
        }
    }
}
