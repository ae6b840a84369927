#include "ghost_features.h"

#include <algorithm>
#include <tuple>
#include <type_traits>

namespace symmd_lammps {

namespace {

constexpr int tag = 4711;  // of messages; LAMMPS has none of its own under way while a pair style computes

template <class T>
MPI_Datatype mpi_type() {
    return std::is_same<T, float>::value ? MPI_FLOAT : MPI_DOUBLE;
}

}  // namespace

GhostFeatures::GhostFeatures(MPI_Comm world) : world_(world) {
    MPI_Comm_rank(world_, &me_);
    MPI_Comm_size(world_, &ranks_);
}

void GhostFeatures::plan(const NeighbourRows& rows, const std::vector<Owner>& owners) {
    const int owned = rows.owned(), atoms = rows.atoms();
    stands_for_.resize(atoms);
    for (int k = 0; k < owned; ++k) stands_for_[k] = k;

    struct Remote {
        Owner owner;
        int atom;
    };
    std::vector<Remote> remote;
    for (int k = owned; k < atoms; ++k) {
        const Owner& owner = owners[rows.local_of(k)];
        // Nobody asks what stands for an atom that is nobody's neighbour.
        stands_for_[k] = 0;
        if (!rows.used()[k]) continue;
        if (owner.rank == me_) {
            stands_for_[k] = rows.atom_of(owner.local);
        } else {
            remote.push_back({owner, k});
        }
    }
    std::sort(remote.begin(), remote.end(), [](const Remote& a, const Remote& b) {
        return std::tie(a.owner.rank, a.owner.local, a.atom) < std::tie(b.owner.rank, b.owner.local, b.atom);
    });

    ghosts_.clear();
    senders_.clear();
    std::vector<int> requests;
    for (std::size_t n = 0; n < remote.size(); ++n) {
        const Remote& ghost = remote[n];
        const bool new_rank = n == 0 || remote[n - 1].owner.rank != ghost.owner.rank;
        if (new_rank) senders_.push_back({ghost.owner.rank, int64_t(ghosts_.size()), 0});
        if (new_rank || remote[n - 1].owner.local != ghost.owner.local) {
            ghosts_.push_back(ghost.atom);
            requests.push_back(ghost.owner.local);
            ++senders_.back().count;
        }
        stands_for_[ghost.atom] = ghosts_.back();
    }
    agree_on_partners(requests);
    for (int& atom : wanted_) atom = rows.atom_of(atom);
}

// Tells the owners which of their atoms are wanted; leaves their LAMMPS indices in `wanted_`.
void GhostFeatures::agree_on_partners(const std::vector<int>& requests) {
    std::vector<int> asked(ranks_, 0), answered(ranks_, 0);
    for (const Partner& sender : senders_) asked[sender.rank] = int(sender.count);
    MPI_Alltoall(asked.data(), 1, MPI_INT, answered.data(), 1, MPI_INT, world_);
    receivers_.clear();
    int64_t count = 0;
    for (int rank = 0; rank < ranks_; ++rank) {
        if (answered[rank] == 0) continue;
        receivers_.push_back({rank, count, answered[rank]});
        count += answered[rank];
    }
    wanted_.resize(count);
    waiting_.clear();
    for (const Partner& receiver : receivers_)
        MPI_Irecv(wanted_.data() + receiver.first, int(receiver.count), MPI_INT, receiver.rank, tag, world_,
                  &waiting_.emplace_back());
    for (const Partner& sender : senders_)
        MPI_Isend(requests.data() + sender.first, int(sender.count), MPI_INT, sender.rank, tag, world_,
                  &waiting_.emplace_back());
    MPI_Waitall(int(waiting_.size()), waiting_.data(), MPI_STATUSES_IGNORE);
}

const std::string& GhostFeatures::agree(const std::string& problem) {
    if (agreed_) return common_problem_;
    agreed_ = true;
    common_problem_ = problem;
    if (ranks_ == 1) return common_problem_;
    const int mine = problem.empty() ? ranks_ : me_;
    int first = ranks_;
    MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, world_);
    if (first == ranks_) return common_problem_;
    int length = int(problem.size());
    MPI_Bcast(&length, 1, MPI_INT, first, world_);
    common_problem_.resize(length);
    MPI_Bcast(&common_problem_[0], length, MPI_CHAR, first, world_);
    return common_problem_;
}

template <class T>
void GhostFeatures::transfer(const std::vector<Partner>& from, T* received, const std::vector<Partner>& to,
                             const T* sent, int64_t width) {
    waiting_.clear();
    for (const Partner& partner : from)
        MPI_Irecv(received + partner.first * width, int(partner.count * width), mpi_type<T>(), partner.rank, tag,
                  world_, &waiting_.emplace_back());
    for (const Partner& partner : to)
        MPI_Isend(sent + partner.first * width, int(partner.count * width), mpi_type<T>(), partner.rank, tag, world_,
                  &waiting_.emplace_back());
    MPI_Waitall(int(waiting_.size()), waiting_.data(), MPI_STATUSES_IGNORE);
}

template <class T>
void GhostFeatures::send_to_ghosts(T* rows, int64_t width) {
    received_.resize(ghosts_.size() * width * sizeof(T));
    sent_.resize(wanted_.size() * width * sizeof(T));
    T *received = reinterpret_cast<T*>(received_.data()), *sent = reinterpret_cast<T*>(sent_.data());
    for (std::size_t n = 0; n < wanted_.size(); ++n) std::copy_n(rows + wanted_[n] * width, width, sent + n * width);
    transfer(senders_, received, receivers_, sent, width);
    for (std::size_t n = 0; n < ghosts_.size(); ++n)
        std::copy_n(received + n * width, width, rows + ghosts_[n] * width);
}

template <class T>
void GhostFeatures::add_to_owners(T* rows, int64_t width) {
    received_.resize(wanted_.size() * width * sizeof(T));
    sent_.resize(ghosts_.size() * width * sizeof(T));
    T *received = reinterpret_cast<T*>(received_.data()), *sent = reinterpret_cast<T*>(sent_.data());
    for (std::size_t n = 0; n < ghosts_.size(); ++n) std::copy_n(rows + ghosts_[n] * width, width, sent + n * width);
    transfer(receivers_, received, senders_, sent, width);
    // In the order of the ranks, whichever message came first: a run gives the same bits each time.
    for (std::size_t n = 0; n < wanted_.size(); ++n) {
        T* row = rows + wanted_[n] * width;
        for (int64_t c = 0; c < width; ++c) row[c] += received[n * width + c];
    }
}

void GhostFeatures::forward(void* rows, int64_t width, symmd::Precision precision) {
    if (!agree("").empty()) throw symmd::Error(common_problem_);
    if (senders_.empty() && receivers_.empty()) return;
    if (precision == symmd::Precision::float32) {
        send_to_ghosts(static_cast<float*>(rows), width);
    } else {
        send_to_ghosts(static_cast<double*>(rows), width);
    }
}

void GhostFeatures::backward(void* rows, int64_t width, symmd::Precision precision) {
    if (senders_.empty() && receivers_.empty()) return;
    if (precision == symmd::Precision::float32) {
        add_to_owners(static_cast<float*>(rows), width);
    } else {
        add_to_owners(static_cast<double*>(rows), width);
    }
}

double GhostFeatures::memory_bytes() const {
    return double(stands_for_.capacity() * sizeof(int32_t)) +
           double((ghosts_.capacity() + wanted_.capacity()) * sizeof(int)) +
           double(received_.capacity() + sent_.capacity());
}

}  // namespace symmd_lammps
