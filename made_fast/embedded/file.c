/* A file of tensors in the safetensors format, read or mapped, and checked as Python's `tensorfile.py` does. */

#define _POSIX_C_SOURCE 200809L

#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_HEADER = 1 << 20, ALIGNMENT = 64, HEX = 64, CHUNK = 1 << 20 };

#define DAMAGED "The file is damaged or cut short: save it again or fetch a fresh copy."
#define FOREIGN "This is no made_fast model (save one with MADE.save), or its first bytes are damaged."

static const char *const DTYPES[] = {"F32", "F64", "I32", "I64", "U8"};

size_t mf_dtype_size(int dtype) { return dtype == U8 ? 1 : dtype == F64 || dtype == I64 ? 8 : 4; }

/* The value of one of the metadata that are the file's own; empty if it is not there. */
static text_t own(const file_t *file, const char *key)
{
    const json_t *found = mf_json_find(file->metadata, file->header.nodes, key);
    return found ? found->text : (text_t){"", 0};
}

/* How often `word` stands in the head; `last` is where it did last. */
static int count_in_head(const char *head, size_t n, const char *word, size_t n_word, size_t *last)
{
    int count = 0;
    for (size_t i = 0; i + n_word <= n;) {
        const char *next = memchr(head + i, word[0], n - n_word + 1 - i);
        if (!next) break;
        i = (size_t)(next - head);
        if (memcmp(next, word, n_word) != 0) {
            i++;
            continue;
        }
        count++;
        *last = i;
        i += n_word;
    }
    return count;
}

/* The checksum of the head, whose own digits count as 64 times 0. */
static int check_seal(const file_t *file, size_t n_head, made_fast_error_t *error)
{
    static const char before[] = "\"header_sha256\":\"";
    const text_t digest = own(file, "header_sha256");
    char entry[sizeof(before) + HEX + 1], zeros[HEX], found[HEX + 1];
    const size_t n_before = sizeof(before) - 1;
    size_t at = 0;
    if (digest.n == HEX) {
        memcpy(entry, before, n_before);
        memcpy(entry + n_before, digest.at, HEX);
        entry[n_before + HEX] = '"';
        if (count_in_head(file->head, n_head, entry, n_before + HEX + 1, &at) == 1) {
            sha256_t sha;
            memset(zeros, '0', HEX);
            mf_sha256_start(&sha);
            mf_sha256_add(&sha, file->head, at + n_before);
            mf_sha256_add(&sha, zeros, HEX);
            mf_sha256_add(&sha, file->head + at + n_before + HEX, n_head - at - n_before - HEX);
            mf_sha256_hex(&sha, found);
            if (memcmp(found, digest.at, HEX) == 0) return 0;
        }
    }
    return mf_fail(error, MADE_FAST_BAD_FILE, "the SHA-256 in the metadata must be that of the header, got \"%.*s\". " DAMAGED,
                   SHOWN(digest));
}

/* The counts of a list, each in 0 .. most; returns how many, or -1. */
static int counts_of(const json_t *list, int64_t most, int64_t *out)
{
    if (list->kind != JSON_LIST || list->n > MAX_DIMENSIONS) return -1;
    for (size_t i = 0; i < list->n; i++) {
        const json_t *item = list + 1 + i; /* numbers have nothing in them */
        if (item->kind != JSON_INT || item->count < 0 || item->count > most) return -1;
        out[i] = item->count;
    }
    return (int)list->n;
}

static int parse_tensor(const file_t *file, const json_t *entry, tensor_t *t, made_fast_error_t *error)
{
    const json_t *nodes = file->header.nodes;
    const int64_t size = (int64_t)file->n_bytes;
    const int object = entry->kind == JSON_OBJECT && entry->n == 3;
    const json_t *dtype = object ? mf_json_find(entry, nodes, "dtype") : 0,
                 *shape = object ? mf_json_find(entry, nodes, "shape") : 0;
    const json_t *offsets = object ? mf_json_find(entry, nodes, "data_offsets") : 0;
    *t = (tensor_t){.name = entry->key, .dtype = -1};
    if (!dtype || !shape || !offsets)
        return mf_fail(error, MADE_FAST_BAD_FILE,
                       "tensor '%.*s' must have dtype, shape and data_offsets, got others. " DAMAGED, SHOWN(t->name));
    for (int i = F32; i <= U8; i++)
        if (dtype->kind == JSON_STRING && mf_is(dtype->text, DTYPES[i])) t->dtype = i;
    if (t->dtype < 0)
        return mf_fail(error, MADE_FAST_BAD_FILE,
                       "the dtype of tensor '%.*s' must be one of F32, F64, I32, I64, U8, got another. " DAMAGED,
                       SHOWN(t->name));
    int64_t span[MAX_DIMENSIONS], product = 1, n = 1;
    t->n_dims = counts_of(shape, size, t->shape);
    for (int i = 0; i < t->n_dims; i++) {
        if (t->shape[i] && product > size / t->shape[i]) t->n_dims = -1;
        if (t->n_dims < 0) break;
        product *= t->shape[i] ? t->shape[i] : 1;
        n *= t->shape[i];
    }
    if (t->n_dims < 0)
        return mf_fail(error, MADE_FAST_BAD_FILE,
                       "the shape of tensor '%.*s' must be up to 8 counts and fit into the file, got others. " DAMAGED,
                       SHOWN(t->name));
    if (counts_of(offsets, size, span) != 2)
        return mf_fail(error, MADE_FAST_BAD_FILE,
                       "the data_offsets of tensor '%.*s' must be two counts of bytes in the file, got others. " DAMAGED,
                       SHOWN(t->name));
    const int64_t item = (int64_t)mf_dtype_size(t->dtype);
    t->begin = span[0];
    t->end = span[1];
    if (t->end - t->begin != item * n || t->begin % item)
        return mf_fail(error, MADE_FAST_BAD_FILE,
                       "tensor '%.*s' must have %lld bytes, by its dtype and shape, and begin on a multiple of %lld, got %lld "
                       "at %lld. " DAMAGED,
                       SHOWN(t->name), (long long)(item * n), (long long)item, (long long)(t->end - t->begin),
                       (long long)t->begin);
    return 0;
}

static int by_place(const void *a, const void *b)
{
    const tensor_t *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return x->name.at < y->name.at ? -1 : 1; /* as they come in the header: qsort need not keep that */
}

static int read_tensors(file_t *file, size_t n_head, made_fast_error_t *error)
{
    const json_t *nodes = file->header.nodes;
    file->tensors = calloc(nodes->n, sizeof(tensor_t));
    if (!file->tensors) return mf_no_memory(error);
    size_t i = 1;
    for (size_t k = 0; k < nodes->n; i = nodes[i].end, k++)
        if (nodes + i != file->metadata && parse_tensor(file, nodes + i, file->tensors + file->n_tensors++, error)) return 1;
    qsort(file->tensors, file->n_tensors, sizeof(tensor_t), by_place);
    int64_t end = 0;
    for (size_t k = 0; k < file->n_tensors; k++) {
        tensor_t *t = file->tensors + k;
        if (t->begin != end)
            return mf_fail(error, MADE_FAST_BAD_FILE, "tensor '%.*s' must begin at byte %lld of the data, got %lld. " DAMAGED,
                           SHOWN(t->name), (long long)end, (long long)t->begin);
        t->values = file->bytes + n_head + t->begin;
        end = t->end;
    }
    if (end != (int64_t)(file->n_bytes - n_head))
        return mf_fail(error, MADE_FAST_BAD_FILE,
                       "the header announces %lld bytes of data, all the file's, none more, got %lld. " DAMAGED,
                       (long long)end, (long long)(file->n_bytes - n_head));
    return 0;
}

/* Whether all floats are finite: the exponent is not all ones. */
static int are_finite(const unsigned char *values, size_t n_bytes, int dtype)
{
    int finite = 1;
    if (dtype == F32)
        for (size_t i = 0; i < n_bytes; i += 4) {
            uint32_t bits;
            memcpy(&bits, values + i, 4);
            finite &= (bits & 0x7f800000u) != 0x7f800000u;
        }
    if (dtype == F64)
        for (size_t i = 0; i < n_bytes; i += 8) {
            uint64_t bits;
            memcpy(&bits, values + i, 8);
            finite &= (bits & 0x7ff0000000000000u) != 0x7ff0000000000000u;
        }
    return finite;
}

static int check_data(const file_t *file, made_fast_error_t *error)
{
    sha256_t sha;
    char found[HEX + 1];
    const text_t digest = own(file, "data_sha256");
    mf_sha256_start(&sha);
    for (size_t k = 0; k < file->n_tensors; k++) {
        const tensor_t *t = file->tensors + k;
        const unsigned char *values = t->values;
        for (size_t at = 0, n = (size_t)(t->end - t->begin); at < n; at += CHUNK) { /* while it is in the cache */
            const size_t part = n - at < CHUNK ? n - at : CHUNK;
            mf_sha256_add(&sha, values + at, part);
            if (!are_finite(values + at, part, t->dtype))
                return mf_fail(error, MADE_FAST_BAD_FILE,
                               "tensor '%.*s' must be finite, got NaN or infinity. Save a model that is finite.",
                               SHOWN(t->name));
        }
    }
    mf_sha256_hex(&sha, found);
    if (digest.n != HEX || memcmp(found, digest.at, HEX) != 0)
        return mf_fail(error, MADE_FAST_BAD_FILE,
                       "the SHA-256 in the metadata must be that of the data, %s, got \"%.*s\". " DAMAGED, found,
                       SHOWN(digest));
    return 0;
}

/* Check file->bytes, and find the tensors in it. */
static int check(file_t *file, made_fast_error_t *error)
{
    uint64_t length = 0;
    if (file->n_bytes >= 8) memcpy(&length, file->bytes, 8);
    if (file->n_bytes < 8 || length < 2 || length > MAX_HEADER || length > file->n_bytes - 8)
        return mf_fail(
            error, MADE_FAST_BAD_FILE,
            "the length of the header (first 8 bytes) must be 2 to %d and fit into the file's %zu bytes, got %llu. " FOREIGN,
            MAX_HEADER, file->n_bytes, (unsigned long long)length);
    const size_t n_head = 8 + (size_t)length;
    if (n_head % ALIGNMENT)
        return mf_fail(error, MADE_FAST_BAD_FILE, "the data must start on a multiple of %d bytes, got %zu. " FOREIGN,
                       ALIGNMENT, n_head);
    if ((uint64_t)file->n_bytes > (uint64_t)1 << 46) /* so that no product of sizes overflows */
        return mf_fail(error, MADE_FAST_UNSUPPORTED, "the file must have at most 2^46 bytes, got %zu.", file->n_bytes);
    file->head = malloc(n_head);
    if (!file->head) return mf_no_memory(error);
    memcpy(file->head, file->bytes, n_head);
    if (mf_json((text_t){file->head + 8, (size_t)length}, "the header", &file->header, error)) return 1;
    const json_t *nodes = file->header.nodes;
    file->metadata = mf_json_find(nodes, nodes, "__metadata__");
    int good = file->metadata && file->metadata->kind == JSON_OBJECT;
    for (size_t k = 0; good && k < file->metadata->n; k++) /* strings have nothing in them */
        if (file->metadata[1 + k].kind != JSON_STRING) good = 0;
    if (!good)
        return mf_fail(error, MADE_FAST_BAD_FILE,
                       "the header must have __metadata__, an object of strings, got none. " FOREIGN);
    if (!mf_is(own(file, "format"), "made_fast"))
        return mf_fail(error, MADE_FAST_BAD_FILE, "the format in its metadata must be 'made_fast', got '%.*s'. " FOREIGN,
                       SHOWN(own(file, "format")));
    if (check_seal(file, n_head, error)) return 1;
    if (!mf_is(own(file, "format_version"), "1"))
        return mf_fail(error, MADE_FAST_BAD_FILE, "the version of the format must be '1', got '%.*s'. Update this library.",
                       SHOWN(own(file, "format_version")));
    return read_tensors(file, n_head, error) || check_data(file, error);
}

/* Read n bytes to `to`; 1 if there are fewer. */
static int read_all(int descriptor, unsigned char *to, size_t n)
{
    while (n) {
        const ssize_t got = read(descriptor, to, n < (size_t)1 << 30 ? n : (size_t)1 << 30);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return 1;
        to += got;
        n -= (size_t)got;
    }
    return 0;
}

/* Read or map what is open. */
static int take_in(file_t *file, int descriptor, int map, made_fast_error_t *error)
{
    struct stat about;
    if (fstat(descriptor, &about))
        return mf_fail(error, MADE_FAST_CANNOT_READ, "the file cannot be read: %s.", strerror(errno));
    if (!S_ISREG(about.st_mode))
        return mf_fail(error, MADE_FAST_BAD_FILE,
                       "a model file must be a regular file, got a folder, device, pipe or socket. " FOREIGN);
    file->n_bytes = (size_t)about.st_size;
    if (map && file->n_bytes) { /* nothing can be mapped of an empty file */
        void *const at = mmap(0, file->n_bytes, PROT_READ, MAP_SHARED, descriptor, 0);
        if (at == MAP_FAILED) return mf_fail(error, MADE_FAST_CANNOT_READ, "the file cannot be mapped: %s.", strerror(errno));
        file->bytes = at;
        file->mapped = 1;
        return 0;
    }
    if (!(file->bytes = mf_aligned(file->n_bytes))) return mf_no_memory(error);
    if (read_all(descriptor, file->bytes, file->n_bytes))
        return mf_fail(error, MADE_FAST_CANNOT_READ,
                       "the file's %zu bytes cannot be read: it has changed meanwhile, or the disk fails.", file->n_bytes);
    return 0;
}

int mf_file_read(file_t *file, const char *path, int map, made_fast_error_t *error)
{
    *file = (file_t){0};
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* or opening a pipe would wait for its writer */
    if (descriptor < 0) return mf_fail(error, MADE_FAST_CANNOT_READ, "the file cannot be opened: %s.", strerror(errno));
    const int failed = take_in(file, descriptor, map, error);
    close(descriptor);
    return failed || check(file, error);
}

int mf_file_copy(file_t *file, const void *bytes, size_t n_bytes, made_fast_error_t *error)
{
    *file = (file_t){.n_bytes = n_bytes};
    if (!(file->bytes = mf_aligned(n_bytes))) return mf_no_memory(error);
    if (n_bytes) memcpy(file->bytes, bytes, n_bytes);
    return check(file, error);
}

void mf_file_free(file_t *file)
{
    mf_json_free(&file->header);
    free(file->head);
    free(file->tensors);
    if (file->mapped)
        munmap(file->bytes, file->n_bytes);
    else
        free(file->bytes);
    *file = (file_t){0};
}
