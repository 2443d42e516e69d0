// One launch of an entry point of kernels/blobnet.cu, emulated:
//   main ENTRY ROWS GRID CLUSTER SHARED_BYTES ORDER DEPTH UNITS WEIGHTS REQUESTS REPLIES
// REQUESTS holds ROWS requests of 96 bytes; REPLIES receives ROWS replies (or rows of features). In
// between they lie scattered over buffers much like ring slots, of which the kernel may touch only
// the slots of the batch; every reply byte must be written once.
#include "blobnet.cu"

#include <fstream>
#include <iterator>

namespace {

std::vector<unsigned char> read_file(const char* path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) emulator::fail("cannot read %s", path);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// A buffer of `bytes`, aligned like device memory, no byte of which may be touched yet.
emulator::Buffer make_buffer(const char* name, size_t bytes) {
    emulator::Buffer buffer{
        name,
        static_cast<unsigned char*>(std::aligned_alloc(256, (bytes + 255) / 256 * 256)),
        {},
        {}};
    std::memset(buffer.begin, 0xFF, bytes);
    buffer.may.assign(bytes, 0);
    buffer.writes.assign(bytes, 0);
    emulator::machine.buffers.push_back(new emulator::Buffer(buffer));
    return buffer;
}

emulator::Buffer& last_buffer() { return *emulator::machine.buffers.back(); }

// Slots of a ring: 8 bytes of sequence number, then the payload; neighbours in the batch are no
// neighbours in memory.
unsigned long long slot_offset(unsigned row, unsigned rows, unsigned stride) {
    const unsigned slots = rows * 2 + 3;
    unsigned step = 7;
    while (slots % step == 0) step += 2;
    return 8 + static_cast<unsigned long long>(row * step % slots) * stride;
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 12) emulator::fail("eleven arguments are needed, see main.cpp");
    const std::string entry = arguments[1];
    const auto number = [&](int index) {
        return static_cast<unsigned>(std::stoul(arguments[index]));
    };
    const unsigned rows = number(2), grid = number(3), cluster = number(4), shared = number(5),
                   order = number(6);
    const auto weights = read_file(arguments[9]), requests = read_file(arguments[10]);
    if (requests.size() != size_t(rows) * 96)
        emulator::fail("the file of requests holds %zu bytes for %u rows", requests.size(), rows);

    const bool features = entry == "blobnet_features";
    const unsigned reply_bytes = features ? 1024 : 112, reply_stride = features ? 1152 : 128;
    BlobNetArgs args{};
    args.rows = rows;
    args.depth = number(7);
    args.units = number(8);
    const auto constant = [&](const char* name, const std::vector<unsigned char>& bytes) {
        make_buffer(name, bytes.size());
        std::memcpy(last_buffer().begin, bytes.data(), bytes.size());
        last_buffer().may.assign(bytes.size(), 1);
        return last_buffer().begin;
    };
    args.weights = constant("weights", weights);

    const auto offsets = [&](const char* name) {
        make_buffer(name, size_t(rows) * 8);
        last_buffer().may.assign(size_t(rows) * 8, 1);
        return reinterpret_cast<unsigned long long*>(last_buffer().begin);
    };
    unsigned long long* request_offsets = offsets("request offsets");
    unsigned long long* reply_offsets = offsets("reply offsets");
    args.request_offsets = request_offsets;
    args.reply_offsets = reply_offsets;
    args.requests = make_buffer("requests", size_t(rows * 2 + 3) * 128 + 8).begin;
    for (unsigned row = 0; row < rows; ++row) {
        request_offsets[row] = slot_offset(row, rows, 128);
        std::memcpy(last_buffer().begin + request_offsets[row], requests.data() + size_t(row) * 96,
                    96);
        std::fill_n(last_buffer().may.begin() + request_offsets[row], 96, 1);
    }
    args.replies = make_buffer("replies", size_t(rows * 2 + 3) * reply_stride + 8).begin;
    for (unsigned row = 0; row < rows; ++row) {
        reply_offsets[row] = slot_offset(row, rows, reply_stride);
        std::fill_n(last_buffer().may.begin() + reply_offsets[row], reply_bytes, 2);
    }

    void (*kernel)(BlobNetArgs) = nullptr;
#ifdef BLOBNET_BLOCK
    if (entry == "blobnet_block_16") kernel = blobnet_block_16;
    if (entry == "blobnet_block_32") kernel = blobnet_block_32;
#endif
#ifdef BLOBNET_CLUSTER
    if (entry == "blobnet_cluster_16") kernel = blobnet_cluster_16;
    if (entry == "blobnet_cluster_32") kernel = blobnet_cluster_32;
    if (entry == "blobnet_cluster_64") kernel = blobnet_cluster_64;
#endif
#ifdef BLOBNET_FEATURES
    if (entry == "blobnet_features") kernel = blobnet_features;
#endif
    if (!kernel) emulator::fail("no entry point %s", entry.c_str());
    if (cluster == 0 || grid % cluster != 0)
        emulator::fail("a grid of %u blocks is not made of clusters of %u", grid, cluster);
    for (unsigned block = 0; block < grid; block += cluster)
        emulator::run_cluster(block, cluster, shared, order, [&] { kernel(args); });

    const emulator::Buffer& replies = last_buffer();
    for (size_t i = 0; i < replies.may.size(); ++i) {
        if ((replies.may[i] & 2) && replies.writes[i] != 1)
            emulator::fail("byte %zu of the replies was written %u times", i, replies.writes[i]);
        if (!(replies.may[i] & 2) && replies.begin[i] != 0xFF)
            emulator::fail("byte %zu of the replies was overwritten", i);
    }
    std::ofstream out(arguments[11], std::ios::binary);
    for (unsigned row = 0; row < rows; ++row)
        out.write(reinterpret_cast<char*>(replies.begin + reply_offsets[row]), reply_bytes);
    out.close();
    return out ? 0 : 4;
}
