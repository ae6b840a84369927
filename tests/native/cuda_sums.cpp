// The sums over edges of csrc/cuda on the emulated device beside plain loops. Ends with 0 and one line, or with 1 and
// what went wrong.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cuda/list_kernels.h"
#include "device_check.h"
#include "random_numbers.h"

namespace {

using namespace symmd;
using Maker = RandomNumbers;

void near(const std::vector<double>& found, const std::vector<double>& expected, const char* what) {
    double largest = 1;
    for (const double number : expected) largest = std::max(largest, std::abs(number));
    for (std::size_t k = 0; k < expected.size(); ++k) expect(std::abs(found[k] - expected[k]) < 1e-12 * largest, what);
}

// Sums over random edges, some of whose senders receive nothing.
template <class T>
void add_up(Maker& maker, int64_t receivers, int64_t standing, int64_t longest, int orders) {
    std::vector<int32_t> row_start{0}, sender, receiver, reverse_start{0}, reverse;
    for (int64_t i = 0; i < receivers; ++i) {
        for (int64_t k = maker.integer(0, longest); k > 0; --k) {
            receiver.push_back(int32_t(i));
            sender.push_back(int32_t(maker.integer(0, standing - 1)));
        }
        row_start.push_back(int32_t(sender.size()));
    }
    for (int64_t j = 0; j < standing; ++j) {
        for (std::size_t e = 0; e < sender.size(); ++e)
            if (sender[e] == j) reverse.push_back(int32_t(e));
        reverse_start.push_back(int32_t(reverse.size()));
    }
    std::vector<Vector4<T>> vectors;
    std::vector<T> pulls;
    for (std::size_t e = 0; e < sender.size(); ++e) {
        vectors.push_back({T(maker.uniform(-5, 5)), T(maker.uniform(-5, 5)), T(maker.uniform(-5, 5)), T(1)});
        for (int x = 0; x < 3; ++x) pulls.push_back(T(maker.uniform(-1, 1)));
    }
    std::vector<double> forces(3 * standing), by_atom(9 * standing), by_sender(9 * standing), virial(9);
    for (std::size_t e = 0; e < sender.size(); ++e) {
        const double v[3] = {double(vectors[e].x), double(vectors[e].y), double(vectors[e].z)};
        for (int a = 0; a < 3; ++a) {
            forces[3 * receiver[e] + a] += pulls[3 * e + a];
            forces[3 * sender[e] + a] -= pulls[3 * e + a];
            for (int b = 0; b < 3; ++b) {
                const double p = double(pulls[3 * e + a]) * v[b], q = double(pulls[3 * e + b]) * v[a];
                virial[3 * a + b] -= 0.5 * (p + q);
                by_atom[9 * receiver[e] + 3 * a + b] -= 0.25 * (p + q);
                by_atom[9 * sender[e] + 3 * a + b] -= 0.25 * (p + q);
                by_sender[9 * sender[e] + 3 * a + b] -= q;
            }
        }
    }
    DeviceBuffer<int32_t> rows, receivers_there, senders, reverse_rows, reverse_there;
    DeviceBuffer<Vector4<T>> vectors_there;
    DeviceBuffer<T> pulls_there;
    DeviceBuffer<double> scratch, forces_there, atom_there, sender_there, virial_there, sum_there;
    upload(rows, row_start.data(), int64_t(row_start.size()));
    upload(receivers_there, receiver.data(), int64_t(receiver.size()));
    upload(senders, sender.data(), int64_t(sender.size()));
    upload(reverse_rows, reverse_start.data(), int64_t(reverse_start.size()));
    upload(reverse_there, reverse.data(), int64_t(reverse.size()));
    upload(vectors_there, vectors.data(), int64_t(vectors.size()));
    upload(pulls_there, pulls.data(), int64_t(pulls.size()));
    scratch.resize(device_sum_scratch(standing));
    const DeviceEdges<T> edges = {int32_t(receivers), int32_t(standing),   rows.data(),          receivers_there.data(),
                                  senders.data(),     reverse_rows.data(), reverse_there.data(), vectors_there.data()};
    std::vector<std::vector<double>> first;
    for (int seed = 0; seed < orders; ++seed) {
        shuffle_threads(seed);
        forces_there.resize(3 * standing);
        atom_there.resize(9 * standing);
        sender_there.resize(9 * standing);
        virial_there.resize(9);
        sum_there.resize(1);
        device_sum_edges(edges, pulls_there.data(), scratch.data(),
                         {forces_there.data(), atom_there.data(), sender_there.data(), virial_there.data()}, nullptr);
        const std::vector<std::vector<double>> found = {
            download(forces_there.data(), 3 * standing), download(atom_there.data(), 9 * standing),
            download(sender_there.data(), 9 * standing), download(virial_there.data(), 9)};
        near(found[0], forces, "wrong forces");
        near(found[1], by_atom, "wrong virials of atoms");
        near(found[2], by_sender, "wrong virials of senders");
        near(found[3], virial, "wrong virial");
        if (seed == 0) first = found;
        expect(found == first, "other bits with another order of threads");
        // Each of them alone.
        virial_there.resize(9);
        check_cuda(cudaMemset(virial_there.data(), 0xff, 9 * sizeof(double)), "clear");
        device_sum_edges(edges, pulls_there.data(), scratch.data(), {nullptr, nullptr, nullptr, virial_there.data()},
                         nullptr);
        expect(download(virial_there.data(), 9) == first[3], "another virial when it alone is wanted");
        check_cuda(cudaMemset(forces_there.data(), 0xff, std::size_t(3 * standing) * sizeof(double)), "clear");
        device_sum_edges(edges, pulls_there.data(), scratch.data(), {forces_there.data(), nullptr, nullptr, nullptr},
                         nullptr);
        expect(download(forces_there.data(), 3 * standing) == first[0], "other forces when they alone are wanted");
        // Of as many numbers.
        device_sum(atom_there.data(), 9 * standing, scratch.data(), sum_there.data(), nullptr);
        double sum = 0;
        for (const double number : by_atom) sum += number;
        near(download(sum_there.data(), 1), {sum}, "wrong sum");
    }
    shuffle_threads(0);
}

}  // namespace

int main() {
    Maker maker(1);
    add_up<float>(maker, 5, 9, 3, 4);
    add_up<double>(maker, 40, 70, 60, 4);
    add_up<float>(maker, 300, 300, 80, 2);
    add_up<double>(maker, 4500, 4600, 1, 1);
    std::printf("sums over random edges\n");
    return 0;
}
