#include "neighbour_list.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <string>

namespace symmd {

namespace {

constexpr int64_t most_atoms = std::numeric_limits<int32_t>::max();

std::string number(double value) {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, "%.6g", value);
    return buffer;
}

void check_positions(const double* positions, int64_t atoms) {
    for (int64_t atom = 0; atom < atoms; ++atom) {
        const double* r = positions + 3 * atom;
        if (std::abs(r[0]) <= largest_length && std::abs(r[1]) <= largest_length && std::abs(r[2]) <= largest_length)
            continue;
        throw std::invalid_argument("expected finite coordinates within 1e8 Å, found atom " + std::to_string(atom + 1) +
                                    " at (" + number(r[0]) + ", " + number(r[1]) + ", " + number(r[2]) +
                                    ") Å; check the structure, or a dynamics that has diverged");
    }
}

// Floor division, and what remains.
int32_t repeats_of(int32_t place, int32_t count, int32_t& inside) {
    int32_t repeats = place / count;
    inside = place % count;
    if (inside < 0) {
        inside += count;
        --repeats;
    }
    return repeats;
}

// How far an atom has moved from where the deformation of the lattice alone takes it.
Vector motion_beside(const std::array<Vector, 3>& strain, const double* before, const double* now) {
    Vector motion;
    for (int x = 0; x < 3; ++x)
        motion[x] = now[x] - before[x] - before[0] * strain[0][x] - before[1] * strain[1][x] - before[2] * strain[2][x];
    return motion;
}

// Whether no atom is further than √`limit` Å from where strain and drift take it; a coordinate that is not a number is.
bool all_near(const std::vector<double>& reference, const double* positions, int64_t atoms,
              const std::array<Vector, 3>& strain, const Vector& drift, double limit) {
    for (int64_t atom = 0; atom < atoms; ++atom) {
        const Vector motion = motion_beside(strain, reference.data() + 3 * atom, positions + 3 * atom);
        const Vector rest{motion[0] - drift[0], motion[1] - drift[1], motion[2] - drift[2]};
        if (!(dot(rest, rest) <= limit)) return false;
    }
    return true;
}

}  // namespace

NeighbourList::NeighbourList(double cutoff, double skin) : cutoff_(cutoff), skin_(skin) {
    if (!(cutoff > coincidence_distance && cutoff <= largest_length))
        throw std::invalid_argument("expected a cutoff above 1e-6 and up to 1e8 Å, found " + number(cutoff) +
                                    " Å; give the cutoff of the model");
    if (!(skin >= 0 && skin <= largest_length))
        throw std::invalid_argument("expected a skin from 0 to 1e8 Å, found " + number(skin) +
                                    " Å; 0.5 to 2 Å are usual");
}

bool NeighbourList::update(const double* positions, int64_t atoms, const double* cell,
                           const std::array<bool, 3>& periodic) {
    if (still_complete(positions, atoms, cell, periodic)) return false;
    built_ = false;
    build(positions, atoms, cell, periodic);
    built_ = true;
    ++build_count_;
    return true;
}

NeighbourEdges NeighbourList::edges() const {
    static constexpr int64_t nothing = 0;
    if (!built_) return {0, 0, &nothing, nullptr, nullptr, nullptr};
    return {atoms_, row_start_[atoms_], row_start_.data(), sender_.data(), shift_.data(), reverse_.data()};
}

bool NeighbourList::still_complete(const double* positions, int64_t atoms, const double* cell,
                                   const std::array<bool, 3>& periodic) const {
    if (!built_ || atoms != atoms_ || periodic != periodic_ || (lattice_.rank > 0 && cell == nullptr)) return false;
    // A deformed lattice takes r to r + r · strain. A pair at or beyond cutoff + skin then is at least
    // (cutoff + skin) (1 - |strain|) apart, less what its two atoms have moved besides.
    std::array<Vector, 3> strain{};
    double square = 0;
    for (int k = 0; k < lattice_.rank; ++k) {
        const Vector now = lattice_.combine(k, cell);
        for (int x = 0; x < 3; ++x)
            for (int y = 0; y < 3; ++y) strain[x][y] += lattice_.duals[k][x] * (now[y] - lattice_.vectors[k][y]);
    }
    for (const Vector& row : strain) square += dot(row, row);
    const double allowed = (skin_ - (cutoff_ + skin_) * std::sqrt(square)) / 2;
    if (!(allowed >= 0)) return false;
    if (all_near(positions_, positions, atoms, strain, {}, allowed * allowed)) return true;
    Vector drift{};
    for (int64_t atom = 0; atom < atoms; ++atom) {
        const Vector motion = motion_beside(strain, positions_.data() + 3 * atom, positions + 3 * atom);
        for (int x = 0; x < 3; ++x) drift[x] += motion[x] / double(atoms);
    }
    // Beyond, coordinates are refused; that atoms flew there together makes no difference.
    if (!(dot(drift, drift) <= largest_length * largest_length)) return false;
    return all_near(positions_, positions, atoms, strain, drift, allowed * allowed);
}

void NeighbourList::build(const double* positions, int64_t atoms, const double* cell,
                          const std::array<bool, 3>& periodic) {
    if (atoms < 0 || atoms > most_atoms)
        throw std::invalid_argument("expected 0 to 2147483647 atoms, found " + std::to_string(atoms) +
                                    "; divide the system among processes");
    check_positions(positions, atoms);
    lattice_ = reduced_lattice(cell, periodic);
    periodic_ = periodic;
    grid_.sort(positions, atoms, lattice_, cutoff_ + skin_);
    choose_images();
    choose_offsets();
    find_pairs();
    collect_rows(atoms);
    order_rows(atoms);
    pair_directions(atoms);
    make_room(positions_, 3 * atoms);
    std::copy_n(positions, 3 * atoms, positions_.begin());
    atoms_ = atoms;
}

void NeighbourList::choose_images() {
    int64_t count = 1;
    for (int k = 0; k < 3; ++k) {
        const int32_t bins = grid_.bin_counts()[k];
        most_repeats_[k] = k < lattice_.rank ? (grid_.reach()[k] + bins - 1) / bins : 0;
        count *= 2 * most_repeats_[k] + 1;
    }
    make_room(images_, count);
    Triple repeats;
    for (repeats[0] = -most_repeats_[0]; repeats[0] <= most_repeats_[0]; ++repeats[0]) {
        for (repeats[1] = -most_repeats_[1]; repeats[1] <= most_repeats_[1]; ++repeats[1]) {
            for (repeats[2] = -most_repeats_[2]; repeats[2] <= most_repeats_[2]; ++repeats[2]) {
                Triple& image = images_[image_index(repeats)];
                for (int l = 0; l < 3; ++l) {
                    int64_t cells = 0;
                    for (int k = 0; k < lattice_.rank; ++k) cells += repeats[k] * lattice_.multiples[k][l];
                    if (std::abs(cells) > most_cells_away)
                        throw std::invalid_argument(
                            "expected neighbours within 2^29 cells along each axis, found one " +
                            std::to_string(cells) + " cells away along axis " + "abc"[l] + "; give a less skewed cell");
                    image[l] = static_cast<int32_t>(cells);
                }
            }
        }
    }
    image_count_ = static_cast<int32_t>(count);
}

int32_t NeighbourList::image_index(const Triple& repeats) const {
    int32_t index = 0;
    for (int k = 0; k < 3; ++k) index = index * (2 * most_repeats_[k] + 1) + repeats[k] + most_repeats_[k];
    return index;
}

void NeighbourList::choose_offsets() {
    const Triple& reach = grid_.reach();
    offsets_.clear();
    // Of an offset and its opposite the later one in this order.
    for (int32_t first = 0; first <= reach[0]; ++first)
        for (int32_t second = first > 0 ? -reach[1] : 0; second <= reach[1]; ++second)
            for (int32_t third = first > 0 || second > 0 ? -reach[2] : 0; third <= reach[2]; ++third)
                offsets_.push_back({first, second, third});
}

void NeighbourList::find_pairs() {
    pair_count_ = 0;
    for (const BinGrid::Bin& receivers : grid_.bins()) {
        for (const Triple& offset : offsets_) {
            Triple place, repeats{};
            for (int k = 0; k < 3; ++k) {
                place[k] = receivers.place[k] + offset[k];
                if (k < lattice_.rank) repeats[k] = repeats_of(place[k], grid_.bin_counts()[k], place[k]);
            }
            if (const BinGrid::Bin* senders = grid_.find(place))
                search(receivers, *senders, repeats, offset == Triple{0, 0, 0});
        }
    }
}

// Every pair of atoms and images is decided once, so that rounding at the cutoff cannot list one of its directions
// only.
void NeighbourList::search(const BinGrid::Bin& receivers, const BinGrid::Bin& senders, const Triple& repeats,
                           bool same_bin) {
    Vector offset{};
    for (int k = 0; k < lattice_.rank; ++k)
        for (int x = 0; x < 3; ++x) offset[x] += repeats[k] * lattice_.vectors[k][x];
    const int32_t image = image_index(repeats);
    const double *x = grid_.wrapped(0), *y = grid_.wrapped(1), *z = grid_.wrapped(2);
    const int32_t* atom_at = grid_.atom_at();
    const double range = cutoff_ + skin_, range_square = range * range;
    const int32_t last = senders.first + senders.count;
    for (int32_t slot = receivers.first; slot < receivers.first + receivers.count; ++slot) {
        const size_t needed = static_cast<size_t>(pair_count_ + senders.count);
        if (pairs_.size() < needed) pairs_.resize(needed + needed / 2);
        Pair* out = pairs_.data() + pair_count_;
        const int32_t receiver = atom_at[slot];
        const double x0 = x[slot] - offset[0], y0 = y[slot] - offset[1], z0 = z[slot] - offset[2];
        double closest = range_square;
        int64_t found = 0;
        for (int32_t other = same_bin ? slot + 1 : senders.first; other < last; ++other) {
            const double dx = x[other] - x0, dy = y[other] - y0, dz = z[other] - z0;
            const double square = dx * dx + dy * dy + dz * dz;
            // Written always and kept if near: which pairs are near is nothing that a processor could predict.
            out[found] = {receiver, atom_at[other], image};
            found += square < range_square;
            closest = square < closest ? square : closest;
        }
        if (closest < coincidence_distance * coincidence_distance) throw_coinciding(slot, senders, offset, same_bin);
        pair_count_ += found;
    }
}

void NeighbourList::throw_coinciding(int32_t slot, const BinGrid::Bin& senders, const Vector& offset,
                                     bool same_bin) const {
    double closest = std::numeric_limits<double>::infinity();
    int32_t partner = slot;
    for (int32_t other = same_bin ? slot + 1 : senders.first; other < senders.first + senders.count; ++other) {
        double square = 0;
        for (int x = 0; x < 3; ++x) {
            const double along = grid_.wrapped(x)[other] - (grid_.wrapped(x)[slot] - offset[x]);
            square += along * along;
        }
        if (square < closest) {
            closest = square;
            partner = other;
        }
    }
    int32_t first = grid_.atom_at()[slot], second = grid_.atom_at()[partner];
    if (second < first) std::swap(first, second);
    const std::string names = first == second
                                  ? "atom " + std::to_string(first + 1) + " and an image of itself"
                                  : "atoms " + std::to_string(first + 1) + " and " + std::to_string(second + 1);
    throw std::invalid_argument("expected atoms and images at least 1e-6 Å apart, found " + names + " at " +
                                number(std::sqrt(closest)) + " Å, coinciding; remove one of them or correct the cell");
}

// Both directions of each pair at their receivers, in the order in which they were found.
void NeighbourList::collect_rows(int64_t atoms) {
    make_room(row_start_, atoms + 1);
    make_room(cursor_, atoms);
    make_room(halves_, 2 * pair_count_);
    std::fill_n(row_start_.begin(), atoms + 1, 0);
    for (int64_t p = 0; p < pair_count_; ++p) {
        ++row_start_[pairs_[p].receiver + 1];
        ++row_start_[pairs_[p].sender + 1];
    }
    for (int64_t atom = 0; atom < atoms; ++atom) row_start_[atom + 1] += row_start_[atom];
    std::copy_n(row_start_.begin(), atoms, cursor_.begin());
    for (int64_t p = 0; p < pair_count_; ++p) {
        const Pair& pair = pairs_[p];
        halves_[cursor_[pair.receiver]++] = {pair.sender, pair.image};
        halves_[cursor_[pair.sender]++] = {pair.receiver, image_count_ - 1 - pair.image};
    }
}

// The list is its own transpose with opposite shifts; transposing it row by row leaves senders in ascending order.
void NeighbourList::order_rows(int64_t atoms) {
    make_room(sender_, 2 * pair_count_);
    make_room(shift_, 2 * pair_count_);
    std::copy_n(row_start_.begin(), atoms, cursor_.begin());
    const Triple* wraps = grid_.wraps();
    for (int64_t sender = 0; sender < atoms; ++sender) {
        for (int64_t e = row_start_[sender]; e < row_start_[sender + 1]; ++e) {
            const int32_t receiver = halves_[e].sender;
            const Triple& image = images_[image_count_ - 1 - halves_[e].image];
            const int64_t place = cursor_[receiver]++;
            sender_[place] = sender;
            for (int l = 0; l < 3; ++l) shift_[place][l] = image[l] - wraps[sender][l] + wraps[receiver][l];
        }
    }
}

// Orders the images of each sender by shift, and links the two directions. Receivers in ascending order meet the edges
// of any row in order, except that the images of one sender stand in the opposite order in the other row.
void NeighbourList::pair_directions(int64_t atoms) {
    make_room(reverse_, 2 * pair_count_);
    std::copy_n(row_start_.begin(), atoms, cursor_.begin());
    for (int64_t receiver = 0; receiver < atoms; ++receiver) {
        const int64_t last = row_start_[receiver + 1];
        for (int64_t first = row_start_[receiver], next = first; first < last; first = next) {
            const int64_t sender = sender_[first];
            while (next < last && sender_[next] == sender) ++next;
            if (next - first > 1) std::sort(shift_.begin() + first, shift_.begin() + next);
            const int64_t opposite = cursor_[sender] + (next - first) - 1;
            for (int64_t e = first; e < next; ++e) reverse_[e] = opposite - (e - first);
            cursor_[sender] += next - first;
        }
    }
}

size_t NeighbourList::memory_bytes() const {
    return grid_.memory_bytes() + positions_.capacity() * sizeof(double) +
           (images_.capacity() + offsets_.capacity() + shift_.capacity()) * sizeof(Triple) +
           pairs_.capacity() * sizeof(Pair) + halves_.capacity() * sizeof(Half) +
           (cursor_.capacity() + row_start_.capacity() + sender_.capacity() + reverse_.capacity()) * sizeof(int64_t);
}

}  // namespace symmd
