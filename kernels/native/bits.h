/* Columns of bits from rows of bits. Nothing here knows a layer. */

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

/* marks[p * mark_words ..] = the rows where column p is 1, a bit a row, for the columns of words [first, stop) of n rows. */
static void mark_columns(const uint64_t *bits, int64_t words, int64_t n, int64_t first, int64_t stop, int64_t mark_words,
                         uint64_t *marks)
{
    for (int64_t w = first; w < stop; w++)
        for (int64_t q = 0; q < mark_words; q++) {
            uint64_t block[64];
            for (int64_t i = 64 * q; i < 64 * q + 64; i++) block[i % 64] = i < n ? bits[i * words + w] : 0;
            transpose_bits(block);
            for (int64_t j = 0; j < 64; j++) marks[(64 * w + j) * mark_words + q] = block[j];
        }
}
