#include "plumed_force_proxy.h"

#include <memory>
#include <sstream>
#include <string>
#include <typeinfo>

#include "openmm/OpenMMException.h"
#include "openmm/serialization/SerializationNode.h"
#include "openmm/serialization/SerializationProxy.h"
#include "plumed_force.h"

namespace symmd {

namespace {

using OpenMM::SerializationNode;

constexpr int version = 1;

class PlumedForceProxy : public OpenMM::SerializationProxy {
  public:
    PlumedForceProxy() : SerializationProxy("PlumedForce") {}

    void serialize(const void* object, SerializationNode& node) const override {
        const PlumedForce& force = *static_cast<const PlumedForce*>(object);
        node.setIntProperty("version", version);
        node.setIntProperty("forceGroup", force.getForceGroup());
        node.setStringProperty("name", force.getName());
        node.setStringProperty("kernel", force.getKernel());
        node.setStringProperty("logFile", force.getLogFile());
        node.setDoubleProperty("temperature", force.getTemperature());
        node.setBoolProperty("restart", force.getRestart());
        // XML does not keep the ends of lines in attributes.
        SerializationNode& script = node.createChildNode("Script");
        std::istringstream lines(force.getScript());
        for (std::string line; std::getline(lines, line);)
            script.createChildNode("Line").setStringProperty("text", line);
    }

    void* deserialize(const SerializationNode& node) const override {
        const int found = node.getIntProperty("version");
        if (found != version)
            throw OpenMM::OpenMMException("PlumedForce: expected XML of version " + std::to_string(version) +
                                          ", found version " + std::to_string(found) + "; install a newer SymMD");
        auto force = std::make_unique<PlumedForce>();
        force->setForceGroup(node.getIntProperty("forceGroup", 0));
        force->setName(node.getStringProperty("name", force->getName()));
        force->setKernel(node.getStringProperty("kernel", ""));
        force->setLogFile(node.getStringProperty("logFile", force->getLogFile()));
        force->setTemperature(node.getDoubleProperty("temperature", 0));
        force->setRestart(node.getBoolProperty("restart", false));
        std::string script;
        for (const SerializationNode& child : node.getChildren())
            if (child.getName() == "Script")
                for (const SerializationNode& line : child.getChildren())
                    script += line.getStringProperty("text") + "\n";
        force->setScript(script);
        return force.release();
    }
};

}  // namespace

void register_plumed_force_proxy() {
    static PlumedForceProxy proxy;
    OpenMM::SerializationProxy::registerProxy(typeid(PlumedForce), &proxy);
}

}  // namespace symmd
