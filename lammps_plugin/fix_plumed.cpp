#include "fix_plumed.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "atom.h"
#include "comm.h"
#include "compute.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "modify.h"
#include "respa_levels.h"
#include "symmd/error.h"
#include "timer.h"
#include "universe.h"
#include "update.h"

using namespace LAMMPS_NS;
using namespace FixConst;
using symmd::plumed::Kernel;
using symmd::plumed::Session;

namespace {

// Length of the cell that PLUMED sees along a direction without images, in Å: no atom is ever half as far away.
constexpr double no_images = 1e6;

}  // namespace

FixPlumed::FixPlumed(LAMMPS* lmp, int narg, char** arg) : Fix(lmp, narg, arg), rank_zero_(world) {
    for (int k = 3; k < narg; k += 2) {
        const std::string keyword = arg[k];
        std::string* value = keyword == "plumedfile" ? &plumed_file_
                             : keyword == "outfile"  ? &log_file_
                             : keyword == "kernel"   ? &kernel_
                                                     : nullptr;
        if (!value)
            error->all(FLERR, "fix symmd/plumed knows the keywords plumedfile, outfile and kernel, found '{}'",
                       keyword);
        if (k + 1 == narg) error->all(FLERR, "fix symmd/plumed needs the name of a file after the keyword {}", keyword);
        *value = arg[k + 1];
    }
    if (plumed_file_.empty()) error->all(FLERR, "fix symmd/plumed needs the input of PLUMED; give 'plumedfile FILE'");
    if (igroup != 0 && comm->me == 0)
        error->warning(FLERR, "fix symmd/plumed gives all atoms to PLUMED; the group {} is not looked at", arg[1]);
    for (const Fix* other : modify->get_fix_list())
        if (other != this && (!std::strcmp(other->style, "plumed") || !std::strcmp(other->style, "symmd/plumed")))
            error->all(FLERR,
                       "there can be one fix for PLUMED, found the fix {} already; one input of PLUMED may hold any "
                       "number of biases",
                       other->id);

    scalar_flag = 1;
    extscalar = 1;
    global_freq = 1;
    energy_global_flag = virial_global_flag = 1;
    thermo_energy = thermo_virial = 1;
    respa_level_support = 1;
    nevery = 1;  // of end_of_step

    // For PLUMED's ENERGY. Named after the fix, so that nothing of the input has the same name.
    energy_id_ = std::string(id) + "_potential_energy";
    pressure_id_ = std::string(id) + "_pressure";
    energy_ = modify->add_compute(energy_id_ + " all pe");
    pressure_ = modify->add_compute(pressure_id_ + " all pressure NULL virial");
}

FixPlumed::~FixPlumed() {
    if (copymode) return;
    for (const std::string& name : {energy_id_, pressure_id_})
        if (modify->get_compute_by_id(name)) modify->delete_compute(name);
}

int FixPlumed::setmask() { return POST_FORCE | PRE_FORCE_RESPA | POST_FORCE_RESPA | MIN_POST_FORCE | END_OF_STEP; }

// PLUMED begins with the first run, when time step and atoms are known wherever the fix stands in the input.
void FixPlumed::init() {
    energy_ = modify->get_compute_by_id(energy_id_);
    pressure_ = modify->get_compute_by_id(pressure_id_);
    if (!energy_ || !pressure_)
        error->all(FLERR, "fix symmd/plumed needs its computes {} and {}, found one deleted; leave them", energy_id_,
                   pressure_id_);
    check_order();
    respa_ = utils::strmatch(update->integrate_style, "^respa");
    levels_ = 0;
    if (!started_) start();
    if (update->dt != time_step_ && comm->me == 0)
        error->warning(FLERR, "PLUMED counts its times with the time step {} of the first run, found {} now",
                       time_step_, update->dt);
}

// A barostat asks for the pressure when it is set up, and fixes are set up in the order of the input.
void FixPlumed::check_order() {
    for (const Fix* other : modify->get_fix_list()) {
        if (utils::strmatch(other->style, "^pimd") || utils::strmatch(other->style, "^ipi"))
            error->all(FLERR, "fix symmd/plumed knows nothing of path integrals, found fix {}", other->style);
    }
    for (const Fix* other : modify->get_fix_list()) {
        if (other == this) break;
        for (const char* barostat : {"^nph", "^npt", "^rigid.*/np[ht]", "^press/", "^deform/pressure", "^box/relax",
                                     "^msst", "^qbmsst", "^tgnpt/drude"})
            if (utils::strmatch(other->style, barostat))
                error->all(FLERR,
                           "fix symmd/plumed must be defined before fix {}, which needs the pressure of the bias; "
                           "write it further up in the input",
                           other->style);
    }
}

// Runs `talk` on the ranks that have a session. What it throws ends LAMMPS with one message.
void FixPlumed::speak(const std::function<void()>& talk) {
    std::string problem;
    try {
        if (session_) talk();
    } catch (const symmd::Error& found) {
        problem = found.what();
    }
    // With message passing the other ranks may be waiting inside PLUMED, and cannot be told.
    if (sharing_ == Sharing::message_passing) {
        if (!problem.empty()) error->one(FLERR, "fix symmd/plumed: {}", problem);
        return;
    }
    int length = int(problem.size());
    MPI_Bcast(&length, 1, MPI_INT, 0, world);
    if (length == 0) return;
    session_.reset();
    started_ = false;
    problem.resize(length);
    MPI_Bcast(&problem[0], length, MPI_CHAR, 0, world);
    error->all(FLERR, "fix symmd/plumed: {}", problem);
}

// Rank 0 looks for the kernel, so that all ranks take the same one, and finds how the ranks can share it.
std::string FixPlumed::choose_kernel() {
    std::string path, problem;
    int sharing = int(Sharing::one_rank);
    if (comm->me == 0) {
        try {
            path = symmd::plumed::find_kernel(kernel_);
            const auto kernel = Kernel::load(path);
            if (comm->nprocs > 1 || universe->existflag) {
                // A kernel that was linked to another MPI would take LAMMPS' communicator for one of its own.
                const bool same_library = kernel->symbol("MPI_Comm_rank") == reinterpret_cast<void*>(&MPI_Comm_rank);
                sharing = int(same_library ? Sharing::message_passing : Sharing::rank_zero);
            }
        } catch (const symmd::Error& found) {
            problem = found.what();
        }
    }
    int lengths[3] = {int(path.size()), int(problem.size()), sharing};
    MPI_Bcast(lengths, 3, MPI_INT, 0, world);
    path.resize(lengths[0]);
    problem.resize(lengths[1]);
    MPI_Bcast(&path[0], lengths[0], MPI_CHAR, 0, world);
    MPI_Bcast(&problem[0], lengths[1], MPI_CHAR, 0, world);
    if (!problem.empty()) error->all(FLERR, "fix symmd/plumed: {}", problem);
    sharing_ = Sharing(lengths[2]);
    return path;
}

void FixPlumed::start() {
    if (!atom->tag_enable || !atom->tag_consecutive())
        error->all(FLERR,
                   "fix symmd/plumed needs atom IDs from 1 to the number of atoms, found others; use "
                   "'reset_atoms id'");
    if (atom->natoms > MAXSMALLINT) error->all(FLERR, "fix symmd/plumed cannot number more than {} atoms", MAXSMALLINT);
    atoms_ = int(atom->natoms);
    time_step_ = update->dt;

    kernel_ = choose_kernel();
    open_session();
    if (sharing_ == Sharing::rank_zero && universe->existflag)
        error->all(FLERR,
                   "fix symmd/plumed needs a PLUMED with LAMMPS' MPI when LAMMPS runs several partitions, found "
                   "the kernel '{}' without",
                   kernel_);
    speak([this] { configure(); });
    int version = 0;
    speak([&] { version = session_->interface_version(); });
    if (comm->me == 0) {
        const char* how = sharing_ == Sharing::one_rank          ? "on one rank"
                          : sharing_ == Sharing::message_passing ? "on all ranks, which pass messages"
                                                                 : "on rank 0, which has the atoms of all ranks";
        utils::logmesg(lmp, "fix symmd/plumed: kernel {}, interface version {}, {}\n", kernel_, version, how);
    }
    started_ = true;
}

// A kernel that is linked to LAMMPS' MPI, perhaps by another library, may still have been built without it.
void FixPlumed::open_session() {
    int knows_ranks = 1;
    std::string problem;
    const bool all = sharing_ == Sharing::message_passing;
    try {
        if (all || comm->me == 0) session_ = std::make_unique<Session>(Kernel::load(kernel_));
        try {
            if (all) session_->command_untyped("setMPIComm", &world);
        } catch (const symmd::Error&) {
            knows_ranks = 0;
        }
    } catch (const symmd::Error& found) {
        problem = found.what();
    }
    if (!problem.empty()) error->one(FLERR, "fix symmd/plumed: {}", problem);
    MPI_Allreduce(MPI_IN_PLACE, &knows_ranks, 1, MPI_INT, MPI_MIN, world);
    if (knows_ranks) return;
    sharing_ = Sharing::rank_zero;
    session_.reset();
    if (comm->me == 0) session_ = std::make_unique<Session>(Kernel::load(kernel_));
}

void FixPlumed::configure() {
    double energy = 1, length = 0.1, time = 1;
    if (std::strcmp(update->unit_style, "metal") == 0) {
        energy = symmd::plumed::kilojoule_per_mole_of_electronvolt;
    } else if (std::strcmp(update->unit_style, "real") == 0) {
        energy = symmd::plumed::kilojoule_per_mole_of_kilocalorie;
        time = 0.001;
    } else {
        throw symmd::Error("needs units metal or real, found units " + std::string(update->unit_style));
    }
    if (universe->existflag) {
        // PLUMED's replicas are LAMMPS' partitions; their rank 0 have a communicator among them.
        MPI_Comm replicas;
        MPI_Comm_split(universe->uworld, comm->me, 0, &replicas);
        session_->command_untyped("GREX setMPIIntracomm", &world);
        if (comm->me == 0) session_->command_untyped("GREX setMPIIntercomm", &replicas);
        session_->command("GREX init");
    }
    if (!log_file_.empty())
        session_->command("setLogFile",
                          universe->existflag ? log_file_ + "." + std::to_string(universe->iworld) : log_file_);
    session_->command("setMDEnergyUnits", &energy);
    session_->command("setMDLengthUnits", &length);
    session_->command("setMDTimeUnits", &time);
    session_->command("setMDEngine", std::string("LAMMPS"));
    session_->command("setPlumedDat", plumed_file_);
    session_->command("setNatoms", &atoms_);
    session_->command("setTimestep", &time_step_);
    session_->command("init");
}

void FixPlumed::setup(int vflag) {
    if (respa_) {
        // What the first half steps of the velocities use.
        auto* respa = reinterpret_cast<Respa*>(update->integrate);
        respa->copy_flevel_f(level());
        post_force_respa(vflag, level(), 0);
        respa->copy_f_flevel(level());
    } else {
        post_force(vflag);
    }
    update_once();
}

void FixPlumed::min_setup(int vflag) { post_force(vflag); }
void FixPlumed::post_force(int) { evaluate(); }
void FixPlumed::min_post_force(int) { evaluate(); }
void FixPlumed::post_force_respa(int, int level, int) {
    if (level == this->level()) evaluate();
}

// Called for each level, from the innermost on, before setup.
void FixPlumed::setup_pre_force_respa(int, int level) { levels_ = std::max(levels_, level + 1); }

// The outermost one, unless fix_modify has said another.
int FixPlumed::level() const { return respa_level >= 0 ? std::min(respa_level, levels_ - 1) : levels_ - 1; }

// Here, since a step's last evaluation is the one with its positions: fixes that try moves ask for the forces before.
void FixPlumed::end_of_step() { update_once(); }

void FixPlumed::update_once() {
    if (!once_.claim_update(update->ntimestep)) return;
    speak([this] { session_->command("update"); });
    MPI_Bcast(&stop_, 1, MPI_INT, 0, world);
    if (stop_) timer->force_timeout();
}

void FixPlumed::evaluate() {
    if (atom->natoms != atoms_)
        error->all(FLERR, "fix symmd/plumed needs the {} atoms that it began with, found {}", atoms_, atom->natoms);
    box_ = {};
    if (domain->xperiodic || domain->yperiodic || domain->zperiodic) {
        const double* h = domain->h;
        box_ = {h[0], 0, 0, h[5], h[1], 0, h[4], h[3], h[2]};
        if (!domain->xperiodic) box_[0] = no_images;
        if (!domain->yperiodic) box_[4] = no_images;
        if (!domain->zperiodic) box_[8] = no_images;
    }
    if (!evaluate_again()) {
        // PLUMED's ENERGY is that of everything but this fix.
        bias_ = 0;
        std::fill_n(virial, 6, 0.0);
        once_.forget_evaluation();
        collect();
        calculate();
        once_.evaluated(update->ntimestep, box_, &atom->x[0][0], 3 * std::size_t(atom->nlocal));
    }
    for (int i = 0; i < atom->nlocal; ++i)
        for (int a = 0; a < 3; ++a) atom->f[i][a] += bias_forces_[3 * std::size_t(i) + a];
    // ENERGY needs both in the next step, and LAMMPS computes them when asked before.
    energy_->addstep(update->ntimestep + 1);
    pressure_->addstep(update->ntimestep + 1);
}

// Is this the last evaluation again? Then its forces are brought into the present order of the atoms, which may have
// changed their ranks and been wrapped around the box since.
bool FixPlumed::evaluate_again() {
    if (!once_.same_step_and_box(update->ntimestep, box_)) return false;
    const int local = atom->nlocal;
    const auto moved = [this](const double* now, const double* then) {
        double shift[3] = {now[0] - then[0], now[1] - then[1], now[2] - then[2]};
        domain->minimum_image(FLERR, shift);
        // Wrapping rounds.
        return std::abs(shift[0]) + std::abs(shift[1]) + std::abs(shift[2]) > 1e-9;
    };
    int state = 2;  // 2: same atoms in the same places; 1: other atoms or another order; 0: an atom has moved
    if (local != int(tags_.size())) state = 1;
    for (int i = 0; i < local && state == 2; ++i) {
        if (tags_[i] != atom->tag[i])
            state = 1;
        else if (moved(atom->x[i], once_.positions().data() + 3 * std::size_t(i)))
            state = 0;
    }
    MPI_Allreduce(MPI_IN_PLACE, &state, 1, MPI_INT, MPI_MIN, world);
    if (state != 1) return state == 2;

    // Once in a run at the most: through arrays of all atoms.
    std::vector<double> all(6 * std::size_t(atoms_), 0.0);
    for (std::size_t k = 0; k < tags_.size(); ++k) {
        double* of_atom = all.data() + 6 * std::size_t(tags_[k] - 1);
        std::copy_n(once_.positions().data() + 3 * k, 3, of_atom);
        std::copy_n(bias_forces_.data() + 3 * k, 3, of_atom + 3);
    }
    MPI_Allreduce(MPI_IN_PLACE, all.data(), int(all.size()), MPI_DOUBLE, MPI_SUM, world);
    int same = 1;
    for (int i = 0; i < local && same; ++i)
        if (moved(atom->x[i], all.data() + 6 * std::size_t(atom->tag[i] - 1))) same = 0;
    MPI_Allreduce(MPI_IN_PLACE, &same, 1, MPI_INT, MPI_MIN, world);
    if (!same) return false;
    tags_.assign(atom->tag, atom->tag + local);
    bias_forces_.resize(3 * std::size_t(local));
    for (int i = 0; i < local; ++i)
        std::copy_n(all.data() + 6 * std::size_t(tags_[i] - 1) + 3, 3, bias_forces_.data() + 3 * std::size_t(i));
    once_.evaluated(update->ntimestep, box_, &atom->x[0][0], 3 * std::size_t(local));
    return true;
}

// Indices, masses, charges and positions of the atoms that this rank gives to PLUMED.
void FixPlumed::collect() {
    const int local = atom->nlocal;
    tags_.assign(atom->tag, atom->tag + local);
    masses_.resize(local);
    charges_.assign(local, 0.0);
    for (int i = 0; i < local; ++i) {
        masses_[i] = atom->rmass_flag ? atom->rmass[i] : atom->mass[atom->type[i]];
        if (atom->q_flag) charges_[i] = atom->q[i];
    }
    if (sharing_ == Sharing::rank_zero) {
        rank_zero_.count(local);
        rank_zero_.gather(tags_.data(), shared_indices_);
        rank_zero_.gather(masses_.data(), 1, shared_masses_);
        rank_zero_.gather(charges_.data(), 1, shared_charges_);
        rank_zero_.gather(&atom->x[0][0], 3, shared_positions_);
    } else {
        shared_indices_ = tags_;
        shared_masses_ = masses_;
        shared_charges_ = charges_;
        shared_positions_.assign(&atom->x[0][0], &atom->x[0][0] + 3 * std::size_t(local));
    }
    shared_count_ = int(shared_indices_.size());
    for (int& index : shared_indices_) --index;  // IDs count from 1
    // With ENERGY, PLUMED 2.10 scales as many numbers as there are atoms on all ranks, wherever they are.
    shared_forces_.resize(3 * std::size_t(sharing_ == Sharing::message_passing ? atoms_ : shared_count_));
    std::fill_n(shared_forces_.begin(), 3 * std::size_t(shared_count_), 0.0);
}

// PLUMED adds the forces of the bias to those that it gets. With ENERGY it also scales what is there, so it must get
// the forces of the system; otherwise it gets zeros, and what comes back is the bias to the last digit.
void FixPlumed::calculate() {
    const int local = atom->nlocal;
    const bool gathered = sharing_ == Sharing::rank_zero;
    int needs_energy = 0;
    speak([&] {
        Session& plumed = *session_;
        const long step = update->ntimestep;
        plumed.command("setStepLong", &step);
        stop_ = 0;
        plumed.command("setStopFlag", &stop_);
        plumed.command("setAtomsNlocal", &shared_count_);
        plumed.command("setAtomsGatindex", shared_indices_.data());
        plumed.command("setBox", box_.data());
        plumed.command("setPositions", shared_positions_.data());
        plumed.command("setMasses", shared_masses_.data());
        plumed.command("setCharges", shared_charges_.data());
        std::fill_n(plumed_virial_, 9, 0.0);
        plumed.command("setVirial", plumed_virial_);
        plumed.command("setForces", shared_forces_.data());
        plumed.command("prepareCalc");
        plumed.command("isEnergyNeeded", &needs_energy);
    });
    if (gathered) MPI_Bcast(&needs_energy, 1, MPI_INT, 0, world);

    std::fill_n(system_virial_, 9, 0.0);
    if (needs_energy) {
        system_energy_ = potential_energy();
        const double* forces = &atom->f[0][0];
        if (gathered)
            rank_zero_.gather(forces, 3, shared_forces_);
        else
            std::copy_n(forces, 3 * std::size_t(local), shared_forces_.data());
    }
    const std::vector<double> before = needs_energy ? shared_forces_ : std::vector<double>{};
    speak([&] {
        if (needs_energy) {
            std::copy_n(system_virial_, 9, plumed_virial_);
            session_->command("setEnergy", &system_energy_);
        }
        session_->command("performCalcNoUpdate");
        bias_ = session_->bias();
    });
    for (std::size_t k = 0; k < before.size(); ++k) shared_forces_[k] -= before[k];

    bias_forces_.resize(3 * std::size_t(local));
    if (gathered)
        rank_zero_.scatter(shared_forces_, 3, bias_forces_.data());
    else
        std::copy_n(shared_forces_.data(), 3 * std::size_t(local), bias_forces_.data());
    MPI_Bcast(&bias_, 1, MPI_DOUBLE, 0, world);
    // PLUMED's virial is the derivative of the energy by the strain, LAMMPS' is its negative. LAMMPS adds up the ranks.
    static constexpr int order[6] = {0, 4, 8, 1, 2, 5};
    for (int m = 0; m < 6; ++m) virial[m] = session_ ? system_virial_[order[m]] - plumed_virial_[order[m]] : 0;
}

// Of everything but this fix, and its virial. PLUMED adds up the energies of the ranks. Versions differ in whether the
// first rank alone scales the virial, so that it gets all of it.
double FixPlumed::potential_energy() {
    if (respa_)
        error->all(FLERR, "PLUMED's ENERGY needs all forces at once, found run_style respa; use run_style verlet");
    const double energy = energy_->compute_scalar();
    pressure_->compute_vector();
    if (comm->me == 0) {
        const double volume = domain->xprd * domain->yprd * (domain->dimension == 3 ? domain->zprd : 1);
        static constexpr int order[9] = {0, 3, 4, 3, 1, 5, 4, 5, 2};
        for (int m = 0; m < 9; ++m) system_virial_[m] = -pressure_->vector[order[m]] * volume / force->nktv2p;
    }
    return sharing_ == Sharing::message_passing ? energy / comm->nprocs : energy;
}

double FixPlumed::memory_usage() {
    double numbers = double(once_.positions().capacity());
    for (const auto* array :
         {&bias_forces_, &masses_, &charges_, &shared_positions_, &shared_masses_, &shared_charges_, &shared_forces_})
        numbers += double(array->capacity());
    return numbers * sizeof(double) + double(tags_.capacity() + shared_indices_.capacity()) * sizeof(int);
}
