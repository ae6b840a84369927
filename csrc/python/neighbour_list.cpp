#include "neighbour_list.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <optional>
#include <stdexcept>
#include <string>

#include "core/neighbour_list.h"

namespace py = pybind11;

namespace {

using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;
using Cell = std::optional<Doubles>;
using Periodic = std::array<bool, 3>;

std::string shape_of(const Doubles& array) {
    std::string text = "[";
    for (py::ssize_t axis = 0; axis < array.ndim(); ++axis)
        text += (axis ? ", " : "") + std::to_string(array.shape(axis));
    return text + "]";
}

bool update(symmd::NeighbourList& list, const Doubles& positions, const Cell& cell, const Periodic& pbc) {
    if (positions.ndim() != 2 || positions.shape(1) != 3)
        throw std::invalid_argument("expected positions of shape [atoms, 3], found " + shape_of(positions) +
                                    "; give one row for each atom");
    if (cell && (cell->ndim() != 2 || cell->shape(0) != 3 || cell->shape(1) != 3))
        throw std::invalid_argument("expected a cell of shape [3, 3], found " + shape_of(*cell) +
                                    "; give one row for each vector of the cell, or None");
    return list.update(positions.data(), positions.shape(0), cell ? cell->data() : nullptr, pbc);
}

template <class T>
py::array_t<T> copied(const T* elements, int64_t count) {
    py::array_t<T> array(count);
    std::copy_n(elements, count, array.mutable_data());
    return array;
}

py::array_t<int64_t> row_start(const symmd::NeighbourList& list) {
    return copied(list.edges().row_start, list.edges().atoms + 1);
}

py::array_t<int64_t> sender(const symmd::NeighbourList& list) {
    return copied(list.edges().sender, list.edges().edges);
}

py::array_t<int32_t> shift(const symmd::NeighbourList& list) {
    const symmd::NeighbourEdges edges = list.edges();
    py::array_t<int32_t> array({static_cast<py::ssize_t>(edges.edges), py::ssize_t(3)});
    int32_t* out = array.mutable_data();
    for (int64_t e = 0; e < edges.edges; ++e)
        for (int l = 0; l < 3; ++l) *out++ = edges.shift[e][l];
    return array;
}

py::array_t<int64_t> reverse(const symmd::NeighbourList& list) {
    return copied(list.edges().reverse, list.edges().edges);
}

py::tuple neighbour_list(const Doubles& positions, const Cell& cell, const Periodic& pbc, double cutoff) {
    symmd::NeighbourList list(cutoff, 0.0);
    update(list, positions, cell, pbc);
    return py::make_tuple(row_start(list), sender(list), shift(list), reverse(list));
}

}  // namespace

void bind_neighbour_list(py::module_& module) {
    module.def(
        "neighbour_list", &neighbour_list, py::arg("positions"), py::arg("cell"), py::arg("pbc"), py::arg("cutoff"),
        "All directed edges shorter than cutoff (Å): row_start [N + 1], sender [E], shift [E, 3], reverse [E].\n\n"
        "Edges row_start[i] to row_start[i + 1] - 1 are those of receiver i, by sender, then by shift; edge e is "
        "the displacement positions[sender[e]] - positions[i] + shift[e] @ cell, and reverse[e] is the same pair "
        "in the other direction. positions [N, 3] Å may lie outside of the cell; the rows of cell [3, 3] Å are "
        "its vectors, None where no axis of pbc [3] is periodic.");
    py::class_<symmd::NeighbourList>(module, "NeighbourList",
                                     "A neighbour list that serves many steps: it holds all pairs closer than cutoff + "
                                     "skin (Å) and is built anew when a pair may have come within cutoff unlisted.")
        .def(py::init<double, double>(), py::arg("cutoff"), py::arg("skin"))
        .def("update", &update, py::arg("positions"), py::arg("cell"), py::arg("pbc"),
             "Make the list right for positions [N, 3] Å, cell [3, 3] Å or None, and pbc [3]; whether it was built "
             "anew.")
        .def_property_readonly("row_start", &row_start, "[N + 1] first edge of each receiver, as a copy.")
        .def_property_readonly("sender", &sender, "[E] atom at the other end of each edge, as a copy.")
        .def_property_readonly("shift", &shift, "[E, 3] cells to add to the sender's position, as a copy.")
        .def_property_readonly("reverse", &reverse, "[E] the same pair in the other direction, as a copy.")
        .def_property_readonly("cutoff", &symmd::NeighbourList::cutoff, "Å")
        .def_property_readonly("skin", &symmd::NeighbourList::skin, "Å")
        .def_property_readonly("build_count", &symmd::NeighbourList::build_count, "How often the list was built.")
        .def_property_readonly("memory_bytes", &symmd::NeighbourList::memory_bytes, "Bytes in all of its arrays.");
}
