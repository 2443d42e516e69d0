// Placeholder until the kernels are merged.
struct Batch { unsigned long long requests, replies, request_offsets, reply_offsets, weights; unsigned int rows; };
