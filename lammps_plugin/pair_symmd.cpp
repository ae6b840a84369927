#include "pair_symmd.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <iterator>

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "universe.h"
#include "update.h"

using namespace LAMMPS_NS;

namespace {

// [ranks, MPI_MAX_PROCESSOR_NAME] on which machine each rank runs.
std::string names_of_ranks(MPI_Comm world) {
    int ranks = 1, length = 0;
    MPI_Comm_size(world, &ranks);
    std::string own(MPI_MAX_PROCESSOR_NAME, '\0'), all(std::size_t(ranks) * MPI_MAX_PROCESSOR_NAME, '\0');
    MPI_Get_processor_name(&own[0], &length);
    MPI_Allgather(&own[0], MPI_MAX_PROCESSOR_NAME, MPI_CHAR, &all[0], MPI_MAX_PROCESSOR_NAME, MPI_CHAR, world);
    return all;
}

}  // namespace

PairSymmd::PairSymmd(LAMMPS* lmp) : Pair(lmp), ghost_features_(world) {
    single_enable = 0;
    restartinfo = 0;  // pair_style and pair_coeff are given again, as with every style that reads a file
    one_coeff = 1;
    manybody_flag = 1;
    // The engine has the virial itself; F·r would lose digits to the coordinates.
    no_virial_fdotr_compute = 1;
    centroidstressflag = CENTROID_AVAIL;
    comm_forward = 2;  // rank and index of an owner, once for each neighbour list
}

PairSymmd::~PairSymmd() {
    if (!allocated || copymode) return;
    memory->destroy(setflag);
    memory->destroy(cutsq);
    memory->destroy(scale_);
}

void PairSymmd::allocate() {
    const int types = atom->ntypes;
    if (allocated) {
        memory->destroy(setflag);
        memory->destroy(cutsq);
        memory->destroy(scale_);
    }
    memory->create(setflag, types + 1, types + 1, "pair:setflag");
    memory->create(cutsq, types + 1, types + 1, "pair:cutsq");
    memory->create(scale_, types + 1, types + 1, "pair:scale");
    for (int i = 0; i <= types; ++i) {
        std::fill_n(setflag[i], types + 1, 0);
        std::fill_n(scale_[i], types + 1, 1.0);
    }
    allocated = 1;
}

void PairSymmd::settings(int narg, char** arg) {
    precision_ = symmd::Precision::float32;
    device_ = "cpu";
    for (int k = 0; k < narg; k += 2) {
        const std::string keyword = arg[k];
        if (keyword != "precision" && keyword != "device")
            error->all(FLERR, "pair_style symmd knows the keywords precision and device, found '{}'", keyword);
        if (k + 1 == narg) error->all(FLERR, "pair_style symmd needs a value after the keyword {}", keyword);
        const std::string value = arg[k + 1];
        if (keyword == "precision") {
            if (value != "single" && value != "double")
                error->all(FLERR, "the precision of pair_style symmd must be single or double, found '{}'", value);
            precision_ = value == "single" ? symmd::Precision::float32 : symmd::Precision::float64;
        } else {
            device_ = value;
        }
    }
    // A model that was loaded in another precision or on another device is loaded anew by pair_coeff.
    engine_.reset();
}

void PairSymmd::coeff(int narg, char** arg) {
    const int types = atom->ntypes;
    if (narg < 3 || std::strcmp(arg[0], "*") != 0 || std::strcmp(arg[1], "*") != 0)
        error->all(FLERR,
                   "pair_coeff of pair_style symmd must be '* * MODEL' and one element for each of the {} atom types",
                   types);
    if (narg != 3 + types)
        error->all(FLERR,
                   "pair_coeff of pair_style symmd needs one element for each of the {} atom types after the model's "
                   "name '{}', found {}",
                   types, arg[2], narg - 3);
    load_model(arg[2]);

    const std::vector<std::string>& known = engine_->model().species;
    species_of_type_.assign(types + 1, -1);
    for (int type = 1; type <= types; ++type) {
        const std::string element = arg[2 + type];
        if (element == "NULL") {
            if (force->pair_match("^hybrid", 0)) continue;
            error->all(FLERR,
                       "atom type {} of pair_style symmd must have an element: NULL is for types that other styles of "
                       "pair_style hybrid take",
                       type);
        }
        const auto found = std::find(known.begin(), known.end(), element);
        if (found == known.end()) {
            std::string names;
            for (const std::string& name : known) names += (names.empty() ? "" : " ") + name;
            error->all(FLERR,
                       "atom type {} must be an element that the model {} was trained for ({}), found '{}'; use a "
                       "model that knows it",
                       type, model_name_, names, element);
        }
        species_of_type_[type] = int(found - known.begin());
    }
    if (*std::max_element(species_of_type_.begin(), species_of_type_.end()) < 0)
        error->all(FLERR,
                   "pair_coeff of pair_style symmd must map at least one atom type to an element, found NULL only");
    allocate();
    for (int i = 1; i <= types; ++i)
        for (int j = i; j <= types; ++j) setflag[i][j] = species_of_type_[i] >= 0 && species_of_type_[j] >= 0 ? 1 : 0;
}

// One rank reads, so that a thousand do not ask the file system for the same file.
void PairSymmd::load_model(const std::string& name) {
    std::string content;
    bigint size = -1;
    if (comm->me == 0) {
        const std::string path = utils::get_potential_file_path(name);
        std::ifstream file(path.empty() ? name : path, std::ios::binary);
        if (file) {
            content.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
            if (!file.bad()) size = bigint(content.size());
        }
    }
    MPI_Bcast(&size, 1, MPI_LMP_BIGINT, 0, world);
    if (size < 0)
        error->all(FLERR,
                   "the model file '{}' of pair_style symmd cannot be read; give a path from here, or one from a "
                   "folder in LAMMPS_POTENTIALS",
                   name);
    if (size > MAXSMALLINT) error->all(FLERR, "the file '{}' is too large for a model of pair_style symmd", name);
    content.resize(size);
    MPI_Bcast(&content[0], int(size), MPI_CHAR, 0, world);

    symmd::EngineOptions options;
    options.precision = precision_;
    options.threads = std::max(1, comm->nthreads);
    const std::string names = device_ == "cuda" ? names_of_ranks(world) : "";
    on_all_ranks([&] {
        try {
            options.device = device_ == "cuda" ? device_of_rank(names) : device_;
            engine_ =
                std::make_unique<symmd::Engine>(symmd::Engine::load(content.data(), content.size(), name, options));
        } catch (const std::exception& found) {
            throw symmd::Error(found.what());
        }
    });
    model_name_ = name;
}

// Ranks of a machine take its GPUs in turn, and partitions go on where the one before them ended. `names`: the machines
// of all ranks.
std::string PairSymmd::device_of_rank(const std::string& names) const {
    const auto machine = [&](int rank) {
        return names.substr(std::size_t(rank) * MPI_MAX_PROCESSOR_NAME, MPI_MAX_PROCESSOR_NAME);
    };
    int before = universe->root_proc[universe->iworld];
    for (int rank = 0; rank < comm->me; ++rank) before += machine(rank) == machine(comm->me);
    return "cuda:" + std::to_string(before % symmd::Engine::device_count());
}

void PairSymmd::init_style() {
    if (!engine_)
        error->all(FLERR, "pair_style symmd has no model: give 'pair_coeff * * MODEL ELEMENT ...' after pair_style");
    if (force->newton_pair == 0)
        error->all(FLERR, "pair_style symmd needs 'newton on', found newton off for pairs; remove 'newton off'");
    if (std::strcmp(update->unit_style, "metal") == 0) {
        energy_unit_ = 1;
    } else if (std::strcmp(update->unit_style, "real") == 0) {
        energy_unit_ = utils::get_conversion_factor(utils::ENERGY, utils::METAL2REAL);
    } else {
        error->all(FLERR, "pair_style symmd needs units metal or real, found units {}", update->unit_style);
    }
    check_special_bonds();
    engine_->set_threads(std::max(1, comm->nthreads));
    neighbor->add_request(this, NeighConst::REQ_FULL);
    rows_step_ = -1;
}

// Neighbour lists leave out bonded pairs whose factors are both 0, which is LAMMPS' default.
void PairSymmd::check_special_bonds() {
    if (atom->molecular == Atom::ATOMIC) return;
    std::array<bool, 4> dropped{};
    for (int k = 1; k <= 3; ++k) dropped[k] = force->special_lj[k] == 0 && force->special_coul[k] == 0;
    bool found = atom->molecular == Atom::TEMPLATE && (dropped[1] || dropped[2] || dropped[3]);
    if (atom->molecular == Atom::MOLECULAR && atom->nspecial) {
        for (int i = 0; i < atom->nlocal && !found; ++i) {
            if (species_of_type_[atom->type[i]] < 0) continue;
            const int* count = atom->nspecial[i];  // cumulative
            for (int k = 0; k < count[2] && !found; ++k) {
                const int distance = k < count[0] ? 1 : k < count[1] ? 2 : 3;
                // Pairs with a type that other styles take are not this style's.
                const int partner = atom->map_style == Atom::MAP_NONE ? -1 : atom->map(atom->special[i][k]);
                found = dropped[distance] && (partner < 0 || species_of_type_[atom->type[partner]] >= 0);
            }
        }
    }
    int here = found ? 1 : 0, anywhere = 0;
    MPI_Allreduce(&here, &anywhere, 1, MPI_INT, MPI_MAX, world);
    if (anywhere)
        error->all(FLERR,
                   "special_bonds must keep bonded atoms in the neighbour lists for pair_style symmd, found factors of "
                   "0; write 'special_bonds lj/coul 1 1 1', or delete the bonds");
}

double PairSymmd::init_one(int, int) { return engine_->model().cutoff; }

// Lists, owners of ghosts and the exchange of features hold until LAMMPS builds its lists anew, which all ranks do in
// the same step.
void PairSymmd::update_rows() {
    const int local = atom->nlocal, all = local + atom->nghost;
    if (neighbor->ago != 0 && neighbor->lastcall == rows_step_) return;
    on_all_ranks([&] { rows_.update(*list, local, all); });
    owners_.resize(all);
    for (int i = 0; i < local; ++i) owners_[i] = {comm->me, i};
    comm->forward_comm(this);
    ghost_features_.plan(rows_, owners_);
    names_.clear();
    if (atom->tag_enable)
        for (int k = 0; k < rows_.atoms(); ++k) names_.push_back(int64_t(atom->tag[rows_.local_of(k)]) - 1);
    rows_step_ = neighbor->lastcall;
    rows_all_ = all;
}

int PairSymmd::pack_forward_comm(int n, int* atoms, double* buffer, int, int*) {
    for (int k = 0; k < n; ++k) {
        buffer[2 * k] = owners_[atoms[k]].rank;
        buffer[2 * k + 1] = owners_[atoms[k]].local;
    }
    return 2 * n;
}

void PairSymmd::unpack_forward_comm(int n, int first, double* buffer) {
    for (int k = 0; k < n; ++k) owners_[first + k] = {int(buffer[2 * k]), int(buffer[2 * k + 1])};
}

// Types may change without a new list (fix atom/swap), so species are looked up in each step.
void PairSymmd::gather() {
    const int atoms = rows_.atoms(), all = atom->nlocal + atom->nghost;
    if (all != rows_all_)
        throw symmd::Error("found " + std::to_string(all) + " atoms where the neighbour list has " +
                           std::to_string(rows_all_) +
                           ": something has added or removed atoms and not built the lists anew");
    species_.resize(atoms);
    forces_.resize(3 * std::size_t(atoms));
    atom_energy_.resize(eflag_atom ? rows_.owned() : 0);
    atom_virial_.resize(vflag_atom ? 9 * std::size_t(atoms) : 0);
    sender_virial_.resize(cvflag_atom ? 9 * std::size_t(atoms) : 0);
    for (int k = 0; k < atoms; ++k) {
        species_[k] = species_of_type_[atom->type[rows_.local_of(k)]];
        // Ghosts of types that other styles take are nobody's neighbours here.
        if (species_[k] < 0 && rows_.same() && !rows_.used()[k]) species_[k] = 0;
    }
    if (rows_.same()) return;
    positions_.resize(3 * std::size_t(atoms));
    for (int k = 0; k < atoms; ++k) std::copy_n(atom->x[rows_.local_of(k)], 3, positions_.data() + 3 * k);
}

// Does `work`, which may fail on some ranks only, and ends the run on all ranks with the message of the first that
// failed: a rank that ends alone is often killed before its message is seen.
template <class Work>
void PairSymmd::on_all_ranks(Work work) {
    std::string problem;
    ghost_features_.begin_agreement();
    try {
        work();
    } catch (const symmd::Error& found) {
        problem = found.what();
    }
    const std::string common = ghost_features_.agree(problem);
    if (!common.empty()) error->all(FLERR, "pair_style symmd: {}", common);
    // After the others went on, in the middle of the step.
    if (!problem.empty()) error->one(FLERR, "pair_style symmd: {}", problem);
}

void PairSymmd::compute(int eflag, int vflag) {
    ev_init(eflag, vflag);
    update_rows();
    double virial_of_rank[9];
    symmd::Results results;
    on_all_ranks([&] {
        gather();
        symmd::Neighbourhood around;
        around.owned = rows_.owned();
        around.atoms = rows_.atoms();
        around.species = species_.data();
        around.positions = rows_.same() ? atom->x[0] : positions_.data();
        around.counts = rows_.counts();
        around.neighbours = rows_.neighbours();
        around.mask = NEIGHMASK;
        around.stands_for = ghost_features_.stands_for();
        around.names = names_.empty() ? nullptr : names_.data();
        results.forces = forces_.data();
        results.virial = vflag_global ? virial_of_rank : nullptr;
        results.atom_energy = eflag_atom ? atom_energy_.data() : nullptr;
        results.atom_virial = vflag_atom ? atom_virial_.data() : nullptr;
        results.sender_virial = cvflag_atom ? sender_virial_.data() : nullptr;
        engine_->compute(around, &ghost_features_, results);
    });
    scatter(results);
}

void PairSymmd::scatter(const symmd::Results& results) {
    const double unit = common_scale() * energy_unit_;
    const int atoms = rows_.atoms();
    for (int k = 0; k < atoms; ++k) {
        double* force_of_atom = atom->f[rows_.local_of(k)];
        for (int a = 0; a < 3; ++a) force_of_atom[a] += unit * forces_[3 * std::size_t(k) + a];
    }
    if (eflag_global) eng_vdwl += unit * results.energy;
    if (eflag_atom)
        for (int k = 0; k < rows_.owned(); ++k) eatom[rows_.local_of(k)] += unit * atom_energy_[k];
    // LAMMPS' order: xx, yy, zz, xy, xz, yz, and yx, zx, zy where a tensor is not symmetric.
    static constexpr int order[9] = {0, 4, 8, 1, 2, 5, 3, 6, 7};
    if (vflag_global)
        for (int m = 0; m < 6; ++m) virial[m] += unit * results.virial[order[m]];
    if (vflag_atom)
        for (int k = 0; k < atoms; ++k)
            for (int m = 0; m < 6; ++m)
                vatom[rows_.local_of(k)][m] += unit * atom_virial_[9 * std::size_t(k) + order[m]];
    if (cvflag_atom)
        for (int k = 0; k < atoms; ++k)
            for (int m = 0; m < 9; ++m)
                cvatom[rows_.local_of(k)][m] += unit * sender_virial_[9 * std::size_t(k) + order[m]];
}

void* PairSymmd::extract(const char* name, int& dimensions) {
    dimensions = 2;
    return std::strcmp(name, "scale") == 0 ? scale_ : nullptr;
}

// A network has no terms of pairs: one factor is for all of it.
double PairSymmd::common_scale() const {
    double common = 1;
    bool seen = false;
    for (int i = 1; i <= atom->ntypes; ++i)
        for (int j = i; j <= atom->ntypes; ++j) {
            if (!setflag[i][j]) continue;
            if (seen && scale_[i][j] != common)
                error->all(FLERR,
                           "the scale of pair_style symmd must be the same for all its atom types, found {} and {}; "
                           "give it for '* *'",
                           common, scale_[i][j]);
            common = scale_[i][j];
            seen = true;
        }
    return common;
}

double PairSymmd::memory_usage() {
    double bytes = Pair::memory_usage();
    bytes += double(species_.capacity() * sizeof(int32_t) + owners_.capacity() * sizeof(symmd_lammps::Owner));
    bytes += double(names_.capacity() * sizeof(int64_t));
    for (const std::vector<double>* numbers : {&positions_, &atom_energy_, &forces_, &atom_virial_, &sender_virial_})
        bytes += double(numbers->capacity() * sizeof(double));
    return bytes + rows_.memory_bytes() + ghost_features_.memory_bytes() +
           double(engine_ ? engine_->memory_bytes() : 0);
}
